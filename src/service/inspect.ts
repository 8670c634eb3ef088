// The debugger's port (--inspect): one for each process, since those that this one starts cannot have its own.

/** The kernel finds one, and the process prints it. Counting up, as `cluster` does, two of a rolling restart would collide. */
const OWN_PORT = '--inspect-port=0';

const INSPECTS = /(^|\s)--inspect/;

/** The options of Node for a process that this one starts. */
export function inheritedOptions({ execArgv, env }: Pick<NodeJS.Process, 'execArgv' | 'env'>): string[] {
  const isInspected = [...execArgv, env['NODE_OPTIONS'] ?? ''].some((options) => INSPECTS.test(options));
  return isInspected && !execArgv.includes(OWN_PORT) ? [...execArgv, OWN_PORT] : [...execArgv];
}

/** The same for commands whose arguments are not known, by the environment that they inherit. */
export function giveOwnInspectPort(env: NodeJS.ProcessEnv): void {
  const options = env['NODE_OPTIONS'];
  if (options === undefined || !INSPECTS.test(options) || options.includes(OWN_PORT)) return;
  env['NODE_OPTIONS'] = `${options} ${OWN_PORT}`;
}
