// Listener: one listening socket of the dispatcher, and the connections that it has accepted.
import { Descriptor, type Acceptor, type Address } from '../fd/index.js';
import type { CustodyLabel } from '../handoff/index.js';
import { isInheritedKey } from './listener-key.js';
import type { Arrival } from './policy.js';

export interface ListenerIdentity {
  /** The number that workers know it by. */
  readonly id: number;
  /** Who asked for the address and in which words: see `listener-key.ts`. */
  readonly key: string;
  /** Whether the owner of the dispatcher asked for it (`--listen`), and not a worker. */
  readonly isOwn: boolean;
  /** Most connections that wait in the kernel. Earlier releases omit it. */
  readonly backlog?: number | undefined;
}

export class Listener implements ListenerIdentity {
  readonly id: number;
  readonly key: string;
  readonly isOwn: boolean;
  readonly backlog: number | undefined;
  #acceptor: Acceptor;
  accepted = 0;

  constructor({ id, key, isOwn, backlog }: ListenerIdentity, acceptor: Acceptor) {
    this.id = id;
    this.key = key;
    this.isOwn = isOwn;
    this.backlog = backlog;
    this.#acceptor = acceptor;
  }

  get acceptor(): Acceptor {
    return this.#acceptor;
  }

  /** Goes on with another socket at the same address. @returns the old socket, which the caller owns */
  exchange(acceptor: Acceptor): Acceptor {
    const before = this.#acceptor;
    this.#acceptor = acceptor;
    return before;
  }

  /** What a worker that keeps a duplicate of the socket tells the next dispatcher. */
  get label(): CustodyLabel {
    return { key: this.key, file: this.acceptor.fileIdentity, backlog: this.backlog };
  }

  /** Whether another process has made the socket and keeps it. */
  get isInherited(): boolean {
    return isInheritedKey(this.key);
  }

  get address(): Address {
    return this.acceptor.address;
  }
}

/** What is needed to open an address again. */
export type FormerListener = Pick<ListenerIdentity, 'key' | 'backlog'> & { readonly address: Address };

/** One accepted client connection, until a worker has adopted it. Owns its descriptor. */
export class AcceptedConnection implements Arrival {
  readonly descriptor: Descriptor;
  readonly listener: Listener;
  #redelivery: 'none' | 'due' | 'counted' = 'none';

  constructor(descriptor: Descriptor, listener: Listener) {
    this.descriptor = descriptor;
    this.listener = listener;
  }

  get client(): Address | undefined {
    try {
      return this.descriptor.remoteAddress;
    } catch {
      return undefined; // the client has hung up
    }
  }

  get local(): Address {
    return this.listener.address;
  }

  /** It has come back from a worker that did not adopt it. */
  return(): void {
    if (this.#redelivery === 'none') this.#redelivery = 'due';
  }

  /** A worker gets it. @returns whether it counts as redelivered: it has come back, and was not counted before */
  placeAgain(): boolean {
    if (this.#redelivery !== 'due') return false;
    this.#redelivery = 'counted';
    return true;
  }
}
