// Crowd: peers that have not proved yet who they are, as many as there may be, and which of them gives way to one more.
import type { StreamSocket } from '../fd/index.js';

/** Where a peer comes from, by what it cannot choose itself: its user and process, or its host over TCP. */
export interface Origin {
  readonly user: string;
  readonly process: string;
  /** Whether it is of the user of this process, or root's. */
  readonly isTrusted: boolean;
}

export class Crowd<Member> implements Iterable<Member> {
  readonly #limit: number;
  /** In the order in which they came. */
  readonly #members = new Map<Member, Origin>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#members.size;
  }

  [Symbol.iterator](): IterableIterator<Member> {
    return this.#members.keys();
  }

  /** @returns who gives way, and is no member any more; undefined while there is room */
  enter(newcomer: Member, origin: Origin): Member | undefined {
    const outgoing = this.#members.size < this.#limit ? undefined : this.#outgoing(origin);
    if (outgoing !== undefined) this.#members.delete(outgoing);
    this.#members.set(newcomer, origin);
    return outgoing;
  }

  delete(member: Member): void {
    this.#members.delete(member);
  }

  /**
   * Whoever floods makes room itself: of the user with the most members, of its process with the most, the one that is there
   * longest.
   */
  #outgoing(newcomer: Origin): Member | undefined {
    const origins = [...this.#members.values(), newcomer];
    const user = mostFrequent(origins.filter(isOther), origins.filter(isTrusted), (origin) => origin.user);
    const ofUser = origins.filter((origin) => origin.user === user);
    const process = mostFrequent(ofUser, [], (origin) => origin.process);
    for (const [member, origin] of this.#members) {
      if (origin.user === user && origin.process === process) return member;
    }
    const [oldest] = this.#members.keys();
    return oldest;
  }
}

/** Never throws: one that has reset its connection, or was closed here, comes from nowhere. */
export function originOf(socket: StreamSocket): Origin {
  try {
    if (!socket.carriesDescriptors) {
      const { remoteAddress } = socket;
      const host = 'host' in remoteAddress ? remoteAddress.host : '';
      return { user: host, process: host, isTrusted: false };
    }
    const { uid, pid } = socket.peer;
    return {
      user: String(uid),
      process: String(pid),
      isTrusted: uid === 0 || uid === process.getuid?.(),
    };
  } catch {
    return { user: '', process: '', isTrusted: false };
  }
}

function isTrusted(origin: Origin): boolean {
  return origin.isTrusted;
}

function isOther(origin: Origin): boolean {
  return !origin.isTrusted;
}

/** Of equals the first one; so those in `last` only when they are more. */
function mostFrequent(
  first: readonly Origin[],
  last: readonly Origin[],
  nameOf: (origin: Origin) => string,
): string | undefined {
  const counts = new Map<string, number>();
  for (const origin of [...first, ...last]) counts.set(nameOf(origin), (counts.get(nameOf(origin)) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return [...counts].find(([, count]) => count === most)?.[0];
}
