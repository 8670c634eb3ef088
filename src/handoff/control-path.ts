// The default control path: where workers and commands find the dispatcher of this user.
import { lstatSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';

import { PassfdError } from '../fd/index.js';

const PRIVATE_DIRECTORY = 0o700;
const OF_OTHERS = 0o077;

/** `$XDG_RUNTIME_DIR/passfd/control`, or `passfd-UID/control` in the directory for temporary files. */
export function defaultControlPath(
  env: Readonly<NodeJS.ProcessEnv> = process.env,
  uid: number = userId(),
): string {
  const runtime = env['XDG_RUNTIME_DIR'];
  // A relative path is invalid, and must be ignored (XDG Base Directory Specification).
  if (runtime !== undefined && isAbsolute(runtime)) return join(runtime, 'passfd', 'control');
  return join(tmpdir(), `passfd-${uid}`, 'control');
}

/**
 * Makes the directory of the default control path, for this user only. In a directory for temporary files anyone can make
 * it first, and would then decide who listens there. So a directory that exists already is checked. The directory of any
 * other path is left alone.
 *
 * @throws {PassfdError} `ERR_ADDRESS_DENIED` when it cannot be made, or when other users may change it
 */
export function prepareControlDirectory(path: string): void {
  if (path !== defaultControlPath()) return;
  const directory = dirname(path);
  try {
    mkdirSync(directory, { mode: PRIVATE_DIRECTORY });
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code !== 'EEXIST') {
      throw new PassfdError(
        'ERR_ADDRESS_DENIED',
        `The directory of the control socket cannot be made: ${message}; name another path with --control`,
        { cause },
      );
    }
  }
  checkPrivate(directory);
}

function checkPrivate(directory: string): void {
  // Not `stat`: the owner of a link can change at any time where it leads.
  const found = lstatSync(directory);
  if (found.isDirectory() && found.uid === userId() && (found.mode & OF_OTHERS) === 0) return;
  throw new PassfdError(
    'ERR_ADDRESS_DENIED',
    `${directory} is not a directory of this user alone (mode 0700); remove it, or name another path with --control`,
  );
}

function userId(): number {
  return process.getuid?.() ?? 0;
}
