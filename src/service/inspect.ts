// The debugger's port (--inspect): processes that this one starts need another port.

/** The kernel chooses one, and the process prints it. If ports were counted up, as in `cluster`, a rolling restart would use one twice. */
const OWN_PORT = '--inspect-port=0';

const INSPECTS = /(^|\s)--inspect/;

/** Node's options for a process that this one starts. */
export function inheritedOptions({ execArgv, env }: Pick<NodeJS.Process, 'execArgv' | 'env'>): string[] {
  const isInspected = [...execArgv, env['NODE_OPTIONS'] ?? ''].some((options) => INSPECTS.test(options));
  return isInspected && !execArgv.includes(OWN_PORT) ? [...execArgv, OWN_PORT] : [...execArgv];
}

/** The same for commands with unknown arguments: changes the environment that they inherit. */
export function giveOwnInspectPort(env: NodeJS.ProcessEnv): void {
  const options = env['NODE_OPTIONS'];
  if (options === undefined || !INSPECTS.test(options) || options.includes(OWN_PORT)) return;
  env['NODE_OPTIONS'] = `${options} ${OWN_PORT}`;
}
