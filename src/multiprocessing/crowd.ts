// Crowd: a bounded set of peers that have not authenticated yet, and the choice of the peer that gives way to a new one.
import type { StreamSocket } from '../fd/index.js';

/** Where a peer comes from: user and process, or the host over TCP. The peer cannot choose these itself. */
export interface Origin {
  readonly user: string;
  readonly process: string;
  /** Whether the peer belongs to root or to the user of this process. */
  readonly isTrusted: boolean;
}

export class Crowd<Member> implements Iterable<Member> {
  readonly #limit: number;
  /** In the order of arrival. */
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

  /** @returns the member that gives way and was removed; undefined while there is room */
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
   * The peer that floods makes room itself: the oldest member of the user with the most members, and of that user's process
   * with the most.
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

/** Never throws: for a connection that was reset or is closed, all fields are empty. */
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

/** The most frequent name. Among equals the first wins, so a name in `last` wins only when it is more frequent. */
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
