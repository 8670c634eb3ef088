// What a process has started by itself, as people know it: of a process that is no worker, most often the real app.
import { readFileSync } from 'node:fs';

/** What to do when the command is one that starts the app, as `tsx` and `npm start` are. */
export const RUN_THE_APP =
  'give passfd run the file that Node runs, not a command that starts it (for tsx app.ts: NODE_OPTIONS="--import tsx" passfd run app.ts)';

/** Longer commands are cut off in the log. */
const MAX_LENGTH = 80;

/** @returns for example `process 4711 (node app.ts)`; undefined when it has started nothing, or the system does not tell */
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

/** What to add to a message about a process that is not ready. */
export function describeLaunched(launched: string | undefined): string {
  return launched === undefined ? '' : `. It has started ${launched}, which is no worker: ${RUN_THE_APP}`;
}
