// Listening sockets that other processes have kept, until their addresses are asked for: offered by the dispatcher's owner,
// or returned by workers of a dispatcher that died.
import type { Acceptor, Descriptor } from '../fd/index.js';
import type { CustodyLabel, WantedAddress } from '../handoff/index.js';
import { formatAddress } from '../fd/index.js';
import { namesOf } from './wanted-address.js';

/** A listening socket that another process has kept, for a worker that asks for its address. */
export interface OfferedSocket {
  readonly descriptor: Descriptor;
  /** Whether another process has made it and keeps it. Otherwise an earlier process of this service has made it. */
  readonly isInherited: boolean;
}

export interface Offered {
  readonly acceptor: Acceptor;
  readonly isInherited: boolean;
}

export class OfferedSockets {
  #all: Offered[] = [];

  get all(): readonly Offered[] {
    return this.#all;
  }

  add(offered: Offered): void {
    this.#all.push(offered);
  }

  /** The socket that serves a wanted address. The caller owns it. */
  takeFor(wanted: WantedAddress): Offered | undefined {
    const names = namesOf(wanted);
    return this.takeWhere(({ acceptor }) => names.includes(formatAddress(acceptor.address)), 1)[0];
  }

  /** @param most the largest number of them; all by default */
  takeWhere(isTaken: (offered: Offered) => boolean, most = Number.POSITIVE_INFINITY): Offered[] {
    const taken = this.#all.filter(isTaken).slice(0, most);
    this.#all = this.#all.filter((offered) => !taken.includes(offered));
    return taken;
  }
}

export interface Returned {
  readonly label: CustodyLabel;
  readonly acceptor: Acceptor;
  /** Whether its clients could not be accepted yet, and the reason was reported. */
  readonly isStuck?: boolean;
}

export class ReturnedSockets {
  /** By inode: every worker brings every socket. */
  readonly #all = new Map<string, Returned>();

  has(inode: string): boolean {
    return this.#all.has(inode);
  }

  add(returned: Returned): void {
    this.#all.set(returned.acceptor.inode, returned);
  }

  /** The socket of an own address. Of several, the one that clients can reach. The caller owns it. */
  async takeFor(key: string): Promise<Acceptor | undefined> {
    let found: Acceptor | undefined;
    for (const { label, acceptor } of this.#all.values()) {
      if (label.key === key && (!found || (await acceptor.isReachable()))) found = acceptor;
    }
    if (found) this.#all.delete(found.inode);
    return found;
  }

  take(inode: string): Returned | undefined {
    const returned = this.#all.get(inode);
    this.#all.delete(inode);
    return returned;
  }

  takeAll(): Returned[] {
    const all = [...this.#all.values()];
    this.#all.clear();
    return all;
  }
}
