// Descriptors that this process inherited: listening sockets of a .socket unit, and those that an earlier process stored.
import { readlinkSync } from 'node:fs';

import { inheritDescriptor, PassfdError, type Descriptor } from '../fd/index.js';
import { parseCount, takeVariables } from './environment.js';

/** `SD_LISTEN_FDS_START`: the first descriptor after the standard streams. */
const FIRST_FD = 3;

/** No process has more: the default of `fs.nr_open` (proc_sys_fs(5)). */
const MAX_INHERITED = 1_048_576;

/** The name when the manager gave no names (sd_listen_fds(3)). A descriptor that was stored without a name is `stored`. */
const WITHOUT_NAME = 'unknown';

const variables = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES'] as const;

/** A descriptor that the service manager passed. The holder of this object owns it. */
export interface InheritedDescriptor {
  /** Not unique: all sockets of one .socket unit have the same name. */
  readonly name: string;
  readonly descriptor: Descriptor;
}

/**
 * Takes over the descriptors that the service manager passed to this process (sd_listen_fds(3)), sets close-on-exec on them,
 * and removes the variables that announced them. A second call finds nothing.
 *
 * The descriptors were open before Node started, and the next number is Node's own. So a wrong count is detected.
 * @returns in the manager's order: those of socket units first. Empty when the variables are for another process, for
 * example when a shell started this one
 * @throws {PassfdError} `ERR_ACTIVATION` when a descriptor that was announced is missing; then all are left alone
 */
export function inheritedDescriptors(
  env: NodeJS.ProcessEnv = process.env,
  pid: number = process.pid,
): InheritedDescriptor[] {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES } = takeVariables(env, variables);
  if (LISTEN_PID !== String(pid) || LISTEN_FDS === undefined) return [];
  const count = parseCount(LISTEN_FDS, MAX_INHERITED);
  if (count === undefined) {
    throw activationError(`LISTEN_FDS is not a number of descriptors: "${LISTEN_FDS}"`);
  }
  const names = LISTEN_FDNAMES?.split(':');
  if (names && names.length !== count) {
    throw activationError(
      `LISTEN_FDS announces ${count} descriptors, and LISTEN_FDNAMES has ${names.length} names`,
    );
  }
  const inherited: InheritedDescriptor[] = [];
  for (let index = 0; index < count; index++) {
    inherited.push({ name: names?.[index] ?? WITHOUT_NAME, descriptor: takeOver(FIRST_FD + index, count) });
  }
  return inherited;
}

/**
 * The inherited listening sockets with this name.
 * @throws {PassfdError} `ERR_ACTIVATION` when there is none; the message lists the names
 */
export function listenersNamed(
  inherited: readonly InheritedDescriptor[],
  name: string,
): readonly InheritedDescriptor[] {
  const found = inherited.filter((candidate) => candidate.name === name);
  const listeners = found.filter(({ descriptor }) => descriptor.describe().kind === 'listener');
  if (listeners.length > 0) return listeners;
  const kinds = found.map(({ descriptor }) => descriptor.describe().kind).join(', ');
  throw activationError(
    found.length > 0
      ? `The inherited descriptor "${name}" is not a listening socket, but: ${kinds}`
      : `No inherited descriptor is named "${name}"; ${describeNames(inherited)}`,
  );
}

function takeOver(fd: number, count: number): Descriptor {
  let descriptor;
  try {
    descriptor = inheritDescriptor(fd);
  } catch (cause) {
    throw activationError(`LISTEN_FDS announces ${count} descriptors, but number ${fd} is not open`, cause);
  }
  if (!isOfNode(fd)) return descriptor;
  throw activationError(`LISTEN_FDS announces ${count} descriptors, but number ${fd} is Node's own`);
}

/** The first descriptor that Node opens is the epoll of its event loop. A service manager never passes one. */
function isOfNode(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventpoll]';
  } catch {
    return false; // without /proc
  }
}

function describeNames(inherited: readonly InheritedDescriptor[]): string {
  const names = [...new Set(inherited.map(({ name }) => name))];
  return names.length === 0
    ? 'this process has inherited none: check that systemd starts it, with a .socket unit, and not through a shell'
    : `names: ${names.join(', ')}`;
}

function activationError(message: string, cause?: unknown): PassfdError {
  return new PassfdError('ERR_ACTIVATION', message, { cause });
}
