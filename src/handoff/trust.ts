// Trust: whose dispatcher a worker or a command speaks to. Who listens at a control path gets clients, or the word of an operator.
import { lstatSync, statSync, type Stats } from 'node:fs';
import { dirname, resolve } from 'node:path';

import { PassfdError, type PeerCredentials } from '../fd/index.js';
import { defaultControlPath } from './control-path.js';

/** Ids of users (uid_t), the last of which means "none". */
export const MAX_USER_ID = 0xffff_fffe;

const ROOT = 0;

/** Modes of a directory: its files may be replaced by the group, by others; but only their owners may replace them. */
const OF_GROUP_OR_OTHERS = 0o022;
const OF_OTHERS = 0o002;
const STICKY = 0o1000;

/** The users that this process trusts: root, its own, and those that were named. */
export type TrustedUsers = ReadonlySet<number>;

/** @param named by `--trust-uid`, or `trustUids` of `join`, beside those in the environment */
export function trustedUsers(
  named: readonly number[] = [],
  env: Readonly<NodeJS.ProcessEnv> = process.env,
): TrustedUsers {
  return new Set([ROOT, process.getuid?.() ?? ROOT, ...named, ...usersIn(env['PASSFD_TRUST_UIDS'])]);
}

/** The same user, or root, who can do anyway whatever this process can. */
export function isTrusted({ uid }: Pick<PeerCredentials, 'uid'>): boolean {
  return uid === ROOT || uid === process.getuid?.();
}

/**
 * Checks who listens at a control path, before anything is said there. In a directory for everybody's files anyone may
 * have taken the name first.
 * @param peer of the connection, by the kernel: the user that has opened the listening socket
 * @throws {PassfdError} `ERR_PEER_DENIED`; `ERR_ADDRESS_MISSING` when the path is gone again
 */
export function checkDispatcher(path: string, peer: PeerCredentials, trusted: TrustedUsers): void {
  if (!trusted.has(peer.uid)) {
    throw denied(
      path,
      `process ${peer.pid} of user ${peer.uid} listens there`,
      `if it is the right one, name its user: --trust-uid ${peer.uid}`,
    );
  }
  if (path.startsWith('\0')) return;
  try {
    checkPath(resolve(path), trusted);
  } catch (cause) {
    if (cause instanceof PassfdError) throw cause;
    throw new PassfdError('ERR_ADDRESS_MISSING', `${path} is gone: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Another user must not choose where the path leads. Else a command could reach the wrong service, though a trusted process
 * listens there.
 */
function checkPath(path: string, trusted: TrustedUsers): void {
  const directory = dirname(path);
  const isDefault = path === defaultControlPath();
  // Not `stat` for the default one: a link leads to a place that its owner can change at any time.
  const found = isDefault ? lstatSync(directory) : statSync(directory);
  if (isDefault && !isOwn(found, trusted)) {
    throw denied(
      path,
      `${directory} may be changed by others`,
      'remove it, or name another path by --control',
    );
  }
  if ((found.mode & OF_OTHERS) !== 0 && (found.mode & STICKY) === 0) {
    throw denied(path, `anyone may replace files in ${directory}`, `say: chmod o-w ${directory}`);
  }
  const entry = lstatSync(path);
  if (entry.isSymbolicLink() && !trusted.has(entry.uid)) {
    throw denied(
      path,
      `it is a link that user ${entry.uid} has made`,
      'name the path that it leads to by --control',
    );
  }
}

function isOwn(directory: Stats, trusted: TrustedUsers): boolean {
  return directory.isDirectory() && trusted.has(directory.uid) && (directory.mode & OF_GROUP_OR_OTHERS) === 0;
}

function denied(path: string, why: string, advice: string): PassfdError {
  return new PassfdError('ERR_PEER_DENIED', `The dispatcher at ${path} is not trusted: ${why}; ${advice}`);
}

/** @throws {PassfdError} `ERR_PEER_DENIED` when it is no list of users: it may be a name */
function usersIn(text = ''): number[] {
  if (text === '') return [];
  return text.split(',').map((part) => {
    const uid = Number(part);
    if (/^\d+$/.test(part) && uid <= MAX_USER_ID) return uid;
    throw new PassfdError(
      'ERR_PEER_DENIED',
      `PASSFD_TRUST_UIDS has the numbers of users, as \`id\` prints them, with commas between them, not "${text}"`,
    );
  });
}
