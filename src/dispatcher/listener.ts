// AcceptLoop: one listening socket of the dispatcher, and the connections that come to it.
import { Descriptor, type Acceptor, type Address } from '../fd/index.js';
import type { CustodyLabel } from '../handoff/index.js';
import type { Arrival } from './policy.js';

export interface ListenerIdentity {
  /** As workers know it. */
  readonly id: number;
  /** As this dispatcher and the next one know what was asked for. */
  readonly key: string;
  /** Whether it was given to the dispatcher (`--listen`), and not asked for by a worker. */
  readonly isOwn: boolean;
  /** Connections that wait in the kernel at most, as was asked for. Earlier releases do not say it. */
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

  /** Another socket at the same address. @returns the one before, which is the caller's */
  exchange(acceptor: Acceptor): Acceptor {
    const before = this.#acceptor;
    this.#acceptor = acceptor;
    return before;
  }

  /** What the next dispatcher has to know about a duplicate of the socket. */
  get label(): CustodyLabel {
    return { key: this.key, file: this.acceptor.fileIdentity, backlog: this.backlog };
  }

  /** Whether another process has made the socket, and keeps it. */
  get isInherited(): boolean {
    return this.key.startsWith('own-fd ') || this.key.startsWith('wanted-fd ');
  }

  get address(): Address {
    return this.acceptor.address;
  }
}

/** What it takes to open an address again. */
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
      return undefined; // it has hung up already
    }
  }

  get local(): Address {
    return this.listener.address;
  }

  /** A worker has it no more, and did not adopt it. */
  return(): void {
    if (this.#redelivery === 'none') this.#redelivery = 'due';
  }

  /** A worker gets it. @returns whether it had been at another one before, and this was not counted yet */
  placeAgain(): boolean {
    if (this.#redelivery !== 'due') return false;
    this.#redelivery = 'counted';
    return true;
  }
}
