// Describes what a worker process has started itself: most often the real app, when the command is only a launcher.
import { readFileSync } from 'node:fs';

/** What to do about a launcher such as `tsx` or `npm start`. */
export const RUN_THE_APP =
  'give passfd run the file that Node runs, not a command that starts it (for tsx app.ts: NODE_OPTIONS="--import tsx" passfd run app.ts)';

/** Longer commands are cut off in the log. */
const MAX_LENGTH = 80;

/** @returns for example `process 4711 (node app.ts)`. Undefined when there is none, or no `/proc` */
export function launchedBy(pid: number): string | undefined {
  try {
    const [child] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ');
    if (child === undefined || child === '') return undefined;
    const command = readFileSync(`/proc/${child}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
    const text = command.length > MAX_LENGTH ? `${command.slice(0, MAX_LENGTH)}...` : command;
    return `process ${child} (${text})`;
  } catch {
    return undefined; // it has ended, or there is no /proc
  }
}

/** An addition to a message about a process that is not ready. */
export function describeLaunched(launched: string | undefined): string {
  return launched === undefined ? '' : `. It has started ${launched}, which is not a worker: ${RUN_THE_APP}`;
}
