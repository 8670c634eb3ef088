// Trust: which users a worker or a command trusts as owners of a dispatcher. The dispatcher gets clients, or an operator's commands.
import { lstatSync, statSync, type Stats } from 'node:fs';
import { dirname, resolve } from 'node:path';

import { PassfdError, type PeerCredentials } from '../fd/index.js';
import { defaultControlPath } from './control-path.js';

/** The highest user id. The next one means "none" (uid_t). */
export const MAX_USER_ID = 0xffff_fffe;

const ROOT = 0;

/** Mode bits of a directory: who may replace its files, and that only their owners may. */
const OF_GROUP_OR_OTHERS = 0o022;
const OF_OTHERS = 0o002;
const STICKY = 0o1000;

/** The users that this process trusts: root, its own user, and those that were named. */
export type TrustedUsers = ReadonlySet<number>;

/**
 * @param named by `--trust-uid`, or `trustUids` of `join`; `PASSFD_TRUST_UIDS` adds to them. Default: none
 * @throws {PassfdError} `ERR_PEER_DENIED` when `PASSFD_TRUST_UIDS` is not a list of user ids
 */
export function trustedUsers(
  named: readonly number[] = [],
  env: Readonly<NodeJS.ProcessEnv> = process.env,
): TrustedUsers {
  return new Set([ROOT, process.getuid?.() ?? ROOT, ...named, ...usersIn(env['PASSFD_TRUST_UIDS'])]);
}

/** Whether a peer is the same user, or root: root can do anything that this process can. */
export function isTrusted({ uid }: Pick<PeerCredentials, 'uid'>): boolean {
  return uid === ROOT || uid === process.getuid?.();
}

/**
 * Checks who listens at a control path, before anything is sent there. In a directory for temporary files another user may
 * have taken the name first.
 * @param peer from the kernel: the user that opened the listening socket
 * @throws {PassfdError} `ERR_PEER_DENIED`; `ERR_ADDRESS_MISSING` when the path no longer exists
 */
export function checkDispatcher(path: string, peer: PeerCredentials, trusted: TrustedUsers): void {
  if (!trusted.has(peer.uid)) {
    throw denied(
      path,
      `process ${peer.pid} of user ${peer.uid} listens there`,
      `if that is the right dispatcher, trust its user: --trust-uid ${peer.uid}`,
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

/** Another user must not choose where the path leads. Otherwise a command could reach the wrong service of a trusted user. */
function checkPath(path: string, trusted: TrustedUsers): void {
  const directory = dirname(path);
  const isDefault = path === defaultControlPath();
  // Not `stat` for the default path: the owner of a link can change at any time where it leads.
  const found = isDefault ? lstatSync(directory) : statSync(directory);
  if (isDefault && !isOwn(found, trusted)) {
    throw denied(
      path,
      `${directory} may be changed by others`,
      'remove it, or name another path with --control',
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
      'name the path that it leads to with --control',
    );
  }
}

function isOwn(directory: Stats, trusted: TrustedUsers): boolean {
  return directory.isDirectory() && trusted.has(directory.uid) && (directory.mode & OF_GROUP_OR_OTHERS) === 0;
}

function denied(path: string, why: string, advice: string): PassfdError {
  return new PassfdError('ERR_PEER_DENIED', `The dispatcher at ${path} is not trusted: ${why}; ${advice}`);
}

/** @throws {PassfdError} `ERR_PEER_DENIED` when the text is not a list of user ids, for example a name */
function usersIn(text = ''): number[] {
  if (text === '') return [];
  return text.split(',').map((part) => {
    const uid = Number(part);
    if (/^\d+$/.test(part) && uid <= MAX_USER_ID) return uid;
    throw new PassfdError(
      'ERR_PEER_DENIED',
      `PASSFD_TRUST_UIDS must be user ids, as \`id\` prints them, separated by commas, not "${text}"`,
    );
  });
}
