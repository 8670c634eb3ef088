// On what was measured: the machine and the versions, without its name or anything of its user.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import os from 'node:os';
import process from 'node:process';

import { find } from './contestants.js';

export interface Machine {
  readonly processor: string;
  readonly cores: number;
  readonly memoryGibibytes: number;
  readonly system: string;
  /** By the name of the program. */
  readonly versions: Readonly<Record<string, string>>;
}

/** How each program is asked for its version. */
const ASKED: readonly (readonly [name: string, command: string, argument: string])[] = [
  ['Python', 'python3', '--version'],
  ['nginx', 'nginx', '-v'],
  ['HAProxy', 'haproxy', '-v'],
  ['C compiler', 'cc', '--version'],
];

export function describeMachine(): Machine {
  const versions: Record<string, string> = { passfd: ownVersion(), Node: process.versions.node };
  for (const [name, command, argument] of ASKED) {
    const version = versionOf(command, argument);
    if (version !== undefined) versions[name] = version;
  }
  return {
    processor: os.cpus()[0]?.model ?? 'unknown',
    cores: os.availableParallelism(),
    memoryGibibytes: Math.round(os.totalmem() / 2 ** 30),
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    versions,
  };
}

function ownVersion(): string {
  const file = new URL('../../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

/** The first number with a dot in what the program says of itself. */
function versionOf(command: string, argument: string): string | undefined {
  const path = find(command);
  if (path === undefined) return undefined;
  const { stdout, stderr } = spawnSync(path, [argument], { encoding: 'utf8' });
  return /\d+\.\d+[^\s,)]*/.exec(stdout + stderr)?.[0];
}
