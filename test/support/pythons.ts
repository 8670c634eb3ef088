// Every CPython from 3.8 on that this machine has, so that a test can ask each of them.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

import { STUCK_AFTER_MS } from './deadline.js';

export interface Python {
  /** The interpreter itself, not a link or a shim that leads to it. */
  readonly path: string;
  readonly version: string;
}

/** One for each version, in the order of their numbers. */
export function pythons(): Python[] {
  const found = new Map<string, Python>();
  for (const command of commands()) {
    const python = ask(command);
    if (python && !found.has(python.version)) found.set(python.version, python);
  }
  const byNumber = new Intl.Collator('en', { numeric: true });
  return [...found.values()].sort((a, b) => byNumber.compare(a.version, b.version));
}

const MINORS = [8, 9, 10, 11, 12, 13, 14, 15];

function commands(): string[] {
  const pyenv = join(homedir(), '.pyenv', 'versions');
  return [
    'python3',
    ...MINORS.map((minor) => `python3.${minor}`),
    '/usr/bin/python3',
    ...namesIn(pyenv).map((name) => join(pyenv, name, 'bin', 'python3')),
  ];
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

const QUESTION = `
import sys
if sys.implementation.name == 'cpython' and sys.version_info >= (3, 8):
    print(sys.executable, '.'.join(map(str, sys.version_info[:3])), sep='\\n')
`;

/** @returns undefined when it is missing, fails (as a shim of a version that is not chosen), or is something else */
function ask(command: string): Python | undefined {
  const { status, stdout } = spawnSync(command, ['-c', QUESTION], {
    encoding: 'utf8',
    timeout: STUCK_AFTER_MS,
  });
  if (status !== 0) return undefined;
  const [path, version] = stdout.split('\n');
  return path && version ? { path, version } : undefined;
}
