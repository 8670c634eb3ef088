// Listeners: the listening sockets of a dispatcher, by the numbers that workers know. Two sockets of one address become one.
import {
  Acceptor,
  formatAddress,
  listen,
  PassfdError,
  type Address,
  type Descriptor,
  type ListenOptions,
} from '../fd/index.js';
import type { CustodyLabel, WantedAddress } from '../handoff/index.js';
import {
  OfferedSockets,
  ReturnedSockets,
  type Offered,
  type OfferedSocket,
  type Returned,
} from './kept-sockets.js';
import {
  inheritedKey,
  isInheritedKey,
  isOwnKey,
  ownKey,
  wantedIn,
  wantedKey,
  type OwnAddress,
} from './listener-key.js';
import { Listener, type FormerListener, type ListenerIdentity } from './listener.js';
import type { ListenerSnapshot } from './succession/snapshot.js';
import { isInTheWay, namesOf, openInherited, openWanted } from './wanted-address.js';

/** Listeners have 16 bits in the protocol (`docs/protocol.md`, HANDOFF). */
const MAX_LISTENER_ID = 65_535;

export interface ListenersEvents {
  opened(listener: Listener): void;
  /** No client can reach this socket of its address any more. What waits there is to be accepted. May throw. */
  stranded(listener: Listener, acceptor: Acceptor): void;
  /** Another socket is at its address. The old one is about to be closed. */
  exchanged(listener: Listener): void;
  /** The listener accepts no more. */
  closing(listener: Listener): void;
  /** The address is free, or another process has it. */
  closed(address: Address): void;
  /** A client of a Unix socket was refused: see `Acceptor.distrustPeers`. */
  refusedPeer(error: PassfdError): void;
  /** A socket is closed, and its file could not be removed; or a file could not be looked at. */
  warned(error: unknown): void;
}

type Backlog = Pick<ListenOptions, 'backlog'>;

export class Listeners implements Iterable<Listener> {
  readonly #events: ListenersEvents;
  readonly #listeners = new Map<number, Listener>();
  /** Listeners that are being opened for workers, by their keys. */
  readonly #opening = new Map<string, Promise<Listener>>();
  readonly #offered = new OfferedSockets();
  readonly #returned = new ReturnedSockets();
  /** Listeners whose sockets are being opened anew. */
  readonly #restoring = new Map<Listener, Promise<void>>();
  #nextId = 0;

  constructor(events: ListenersEvents) {
    this.#events = events;
  }

  [Symbol.iterator](): IterableIterator<Listener> {
    return this.#listeners.values();
  }

  has(listener: Listener): boolean {
    return this.#listeners.get(listener.id) === listener;
  }

  /** Whether its socket was offered and a worker asked for its address. Such a socket cannot be opened again here. */
  wasOffered({ key }: Listener): boolean {
    const wanted = wantedIn(key);
    return wanted !== undefined && isInheritedKey(key) && !('fd' in wanted);
  }

  /** The open listener of a former one: it was asked for in the same words, or has the same address. */
  at({ key, address }: FormerListener): Listener | undefined {
    const listeners = [...this];
    const wanted = formatAddress(address);
    return (
      listeners.find((listener) => listener.key === key) ??
      listeners.find((listener) => formatAddress(listener.address) === wanted)
    );
  }

  /** The dispatcher's own: their connections go to all workers that serve. */
  get own(): Listener[] {
    return [...this].filter(({ isOwn }) => isOwn);
  }

  /** Offered sockets that no worker has asked for yet. */
  get offered(): readonly Offered[] {
    return this.#offered.all;
  }

  /** @throws {PassfdError} as `listen` of `passfd` */
  async openOwn(address: OwnAddress, backlog: number | undefined): Promise<Listener> {
    const key = this.#unusedKey(ownKey(address));
    // No returned socket has this key: the number may be of another socket than in the process that died.
    if (typeof address === 'object' && 'fd' in address) {
      return this.#open(openInherited(address.fd), { key, isOwn: true, backlog });
    }
    const returned = await this.#returned.takeFor(key);
    if (!returned) await this.#endOfferedInTheWay(typeof address === 'string' ? { path: address } : address);
    const acceptor = returned ?? (await listen(address, withBacklog(backlog)));
    return this.#open(acceptor, { key, isOwn: true, backlog });
  }

  /** The first worker that asks for an address opens it. The others get the same listener. @throws {PassfdError} as `listen` */
  async openWanted(address: WantedAddress, backlog: number): Promise<Listener> {
    const key = wantedKey(address);
    const existing = await this.#find(key, address);
    if (existing) {
      // Most apps that listen at a path remove its file first. If the file cannot be restored, other workers serve there.
      await this.restoreFile(existing).catch((error: unknown) => {
        this.#events.warned(error);
      });
      return existing;
    }
    return this.#openNew(key, address, { backlog });
  }

  /**
   * Opens an address again that a worker had asked for, unless it is open. It has the same port as before, even if the
   * kernel had picked it. The next worker that asks for it in the same words gets it.
   * @returns undefined when another program has it
   * @throws {PassfdError} as `listen`
   */
  async reopen(former: FormerListener): Promise<Listener | undefined> {
    const { key, address, backlog } = former;
    const open = this.at(former);
    const asked = wantedIn(key);
    if (open || !asked || isInheritedKey(key)) return open;
    const wanted = 'port' in asked && 'port' in address ? { ...asked, port: address.port } : asked;
    try {
      return await (this.#opening.get(key) ?? this.#openNew(key, wanted, withBacklog(backlog)));
    } catch (error) {
      if (!(error instanceof PassfdError) || error.code !== 'ERR_ADDRESS_IN_USE') throw error;
      // A worker may have asked for it in other words meanwhile.
      return this.at(former);
    }
  }

  async #openNew(key: string, address: WantedAddress, options: Backlog): Promise<Listener> {
    const opening = this.#openOffered(key, address, options) ?? this.#openWanted(key, address, options);
    this.#opening.set(key, opening);
    try {
      return await opening;
    } finally {
      this.#opening.delete(key);
    }
  }

  #openOffered(key: string, address: WantedAddress, options: Backlog): Promise<Listener> | undefined {
    const offered = this.#offered.takeFor(address);
    if (!offered) return undefined;
    const { acceptor, isInherited } = offered;
    const identity = { key: isInherited ? inheritedKey(address) : key, isOwn: false, ...options };
    return Promise.resolve(this.#open(acceptor, identity));
  }

  async #openWanted(key: string, address: WantedAddress, options: Backlog): Promise<Listener> {
    await this.#endOfferedInTheWay(address);
    return this.#open(await openWanted(address, options), { key, isOwn: false, ...options });
  }

  /**
   * Takes in a listening socket that a worker had in custody. A socket that workers had asked for is open from here on. A
   * socket of the dispatcher's own waits for `openOwn`.
   * @throws {PassfdError} when its file cannot be looked at; then it is closed
   */
  async takeReturned(label: CustodyLabel, descriptor: Descriptor): Promise<void> {
    // A socket that was shut down: its last server was closed, and the dispatcher died before all custodians knew.
    if (descriptor.describe().kind !== 'listener') {
      descriptor.close();
      return;
    }
    const identity = descriptor.inode;
    if (this.#isKnown(identity)) {
      descriptor.close();
      return;
    }
    const { key, file, backlog } = label;
    const removesFile = !isInheritedKey(key);
    let acceptor: Acceptor;
    try {
      acceptor = await Acceptor.inherit(descriptor, { removesFile, fileIdentity: file });
    } catch (error) {
      descriptor.close();
      throw error;
    }
    this.#guard(acceptor);
    if (this.#isKnown(identity)) {
      acceptor.release().close();
    } else if (isOwnKey(key)) {
      this.#returned.add({ label, acceptor });
    } else {
      const twin = removesFile ? this.#twinOf(label, acceptor) : undefined;
      if (twin) await this.#merge(twin, { label, acceptor });
      else this.#open(acceptor, { key, isOwn: false, backlog });
    }
  }

  /** The listener of another socket of the same path. A worker may bring an old one, if it missed an exchange. */
  #twinOf({ key }: CustodyLabel, { address }: Acceptor): Listener | undefined {
    return 'path' in address ? [...this].find((listener) => listener.key === key) : undefined;
  }

  /** Of two sockets of one path, keeps the one that clients can reach, and accepts what waits at the other. */
  async #merge(listener: Listener, returned: Returned): Promise<void> {
    const { acceptor } = returned;
    let isBetter = false;
    try {
      isBetter = !(await listener.acceptor.isReachable()) && (await acceptor.isReachable());
    } catch (error) {
      this.#events.warned(error);
    }
    if (!this.has(listener)) {
      await this.#closeAcceptor(acceptor);
      return;
    }
    const stranded = isBetter ? this.#replace(listener, acceptor) : acceptor;
    try {
      this.#events.stranded(listener, stranded);
    } catch (error) {
      // To close the socket would reset its clients: `closeReturned` tries again.
      if (returned.isStuck !== true) this.#events.warned(error);
      if (this.#isKnown(stranded.inode)) stranded.release().close();
      else this.#returned.add({ label: returned.label, acceptor: stranded, isStuck: true });
      return;
    }
    // Workers of an earlier release do not name the file. Then both sockets have the file that is at their path.
    if (stranded.fileIdentity === listener.acceptor.fileIdentity) stranded.release().close();
    else await this.#closeAcceptor(stranded);
  }

  /** Takes over a listening socket of another generation, under the number that workers know. */
  async restore({
    descriptor,
    accepted,
    removesFile,
    fileIdentity,
    ...identity
  }: ListenerSnapshot): Promise<Listener> {
    const acceptor = await Acceptor.inherit(descriptor, { removesFile, fileIdentity });
    this.#guard(acceptor);
    const listener = new Listener(identity, acceptor);
    listener.accepted = accepted;
    this.#listeners.set(listener.id, listener);
    this.#nextId = Math.max(this.#nextId, listener.id + 1) % (MAX_LISTENER_ID + 1);
    this.#events.opened(listener);
    return listener;
  }

  /** Takes ownership of listening sockets that workers may ask for. @throws {PassfdError} `ERR_WRONG_KIND` */
  async offer(sockets: readonly OfferedSocket[]): Promise<void> {
    for (const { descriptor, isInherited } of sockets) {
      // A worker has brought the same socket.
      if (this.#isKnown(descriptor.inode)) {
        descriptor.close();
        continue;
      }
      const acceptor = await Acceptor.inherit(descriptor, { removesFile: !isInherited });
      this.#guard(acceptor);
      this.#offered.add({ acceptor, isInherited });
    }
  }

  /**
   * Opens a Unix socket anew if its file was removed, since no client could reach it. An inherited socket is left alone.
   * @throws {PassfdError} as `listen`; then it is as before
   */
  async restoreFile(listener: Listener): Promise<void> {
    const running = this.#restoring.get(listener);
    if (running) return running;
    const restoring = this.#restoreFile(listener);
    this.#restoring.set(listener, restoring);
    try {
      await restoring;
    } finally {
      this.#restoring.delete(listener);
    }
  }

  /** Resolves when no socket is being opened anew. */
  async restored(): Promise<void> {
    await Promise.allSettled(this.#restoring.values());
  }

  async #restoreFile(listener: Listener): Promise<void> {
    const { acceptor, address, isInherited } = listener;
    if (!('path' in address) || isInherited || (await acceptor.isReachable())) return;
    const fresh = await listen(address, askedFor(listener));
    this.#guard(fresh);
    if (!this.has(listener) || acceptor.closed) {
      await fresh.close();
      return;
    }
    try {
      this.#events.stranded(listener, acceptor);
    } catch (error) {
      await fresh.close();
      throw error;
    }
    await this.#closeAcceptor(this.#replace(listener, fresh));
  }

  /** @returns the socket that the address had before */
  #replace(listener: Listener, fresh: Acceptor): Acceptor {
    const before = listener.exchange(fresh);
    this.#events.exchanged(listener);
    return before;
  }

  /** Ends the offered sockets that no worker has asked for. */
  endOffered(): Promise<void> {
    return this.#endOfferedWhere(() => true);
  }

  /** Closes the offered sockets here only. The process that keeps them has them still. */
  async closeOffered(): Promise<void> {
    const offered = this.#offered.takeWhere(() => true);
    await Promise.all(offered.map(({ acceptor }) => this.#closeAcceptor(acceptor)));
  }

  /**
   * Closes the returned sockets that nobody has asked for. A socket stays while no descriptor is free for its clients: call
   * this again.
   */
  async closeReturned(): Promise<void> {
    for (const returned of this.#returned.takeAll()) {
      const { label, acceptor } = returned;
      const twin = this.#twinOf(label, acceptor);
      await (twin ? this.#merge(twin, returned) : this.#closeAcceptor(acceptor));
    }
  }

  /** Closes it here. Clients may still connect while workers have it in custody. */
  close(listener: Listener): Promise<void> {
    return this.#remove(listener, () => listener.acceptor.close());
  }

  /** Shuts it down for every process that has it in custody, so the address is free. An inherited socket is closed here only. */
  end(listener: Listener): Promise<void> {
    return this.#remove(listener, () =>
      listener.isInherited ? listener.acceptor.close() : listener.acceptor.shutdown(),
    );
  }

  /** Ends own sockets that keep the wanted address from being opened. */
  #endOfferedInTheWay(wanted: WantedAddress | Address): Promise<void> {
    return this.#endOfferedWhere(
      ({ acceptor, isInherited }) => !isInherited && isInTheWay(acceptor.address, wanted),
    );
  }

  /** Shuts offered sockets down for every process that keeps them. Inherited ones are closed here only. */
  async #endOfferedWhere(isUnwanted: (offered: Offered) => boolean): Promise<void> {
    for (const { acceptor, isInherited } of this.#offered.takeWhere(isUnwanted)) {
      await this.#warnIfFails(() => (isInherited ? acceptor.close() : acceptor.shutdown()));
      if (!isInherited) this.#events.closed(acceptor.address);
    }
  }

  async #remove(listener: Listener, close: () => Promise<void>): Promise<void> {
    if (!this.#listeners.delete(listener.id)) return;
    this.#events.closing(listener);
    await this.#warnIfFails(close);
    this.#events.closed(listener.address);
  }

  #closeAcceptor(acceptor: Acceptor): Promise<void> {
    return this.#warnIfFails(() => acceptor.close());
  }

  async #warnIfFails(close: () => Promise<void>): Promise<void> {
    try {
      await close();
    } catch (error) {
      this.#events.warned(error);
    }
  }

  /** Any process that the mode of a Unix socket admits may connect to it. */
  #guard(acceptor: Acceptor): void {
    acceptor.distrustPeers((error) => {
      this.#events.refusedPeer(error);
    });
  }

  #open(acceptor: Acceptor, identity: Omit<ListenerIdentity, 'id'>): Listener {
    this.#guard(acceptor);
    this.#dropOthers(acceptor);
    const listener = new Listener({ ...identity, id: this.#freeId() }, acceptor);
    this.#listeners.set(listener.id, listener);
    this.#events.opened(listener);
    return listener;
  }

  /** Several addresses may be asked for in the same words (port 0). The next dispatcher asks in the same order. */
  #unusedKey(words: string): string {
    const keys = new Set(Array.from(this, ({ key }) => key));
    let key = words;
    for (let count = 2; keys.has(key); count++) key = `${words} ${count}`;
    return key;
  }

  /** Numbers are used in turn: connections of a listener that was just closed may still be on their way. */
  #freeId(): number {
    for (let tries = 0; tries <= MAX_LISTENER_ID; tries++) {
      const id = this.#nextId;
      this.#nextId = id === MAX_LISTENER_ID ? 0 : id + 1;
      if (!this.#listeners.has(id)) return id;
    }
    throw new PassfdError('ERR_QUOTA', `More than ${MAX_LISTENER_ID} addresses are open`);
  }

  /** The listener that serves the wanted address already, in whatever words it was asked for. */
  #find(key: string, address: WantedAddress): Promise<Listener> | Listener | undefined {
    const keys = [key, inheritedKey(address)];
    const same = [...this].find((listener) => keys.includes(listener.key)) ?? this.#opening.get(key);
    if (same) return same;
    const names = namesOf(address);
    return [...this].find((listener) => names.includes(formatAddress(listener.address)));
  }

  #isKnown(inode: string): boolean {
    return this.#returned.has(inode) || [...this].some(({ acceptor }) => acceptor.inode === inode);
  }

  /** Closes other descriptors of the same socket, such as those of a service manager. The file stays. */
  #dropOthers({ inode }: Acceptor): void {
    this.#returned.take(inode)?.acceptor.release().close();
    for (const { acceptor } of this.#offered.takeWhere((offered) => offered.acceptor.inode === inode)) {
      acceptor.release().close();
    }
  }
}

/** The options of the `listen` that opened it. */
function askedFor({ key, backlog }: Listener): ListenOptions {
  const wanted = isInheritedKey(key) ? undefined : wantedIn(key);
  return { ...(wanted && 'mode' in wanted && { mode: wanted.mode }), ...withBacklog(backlog) };
}

function withBacklog(backlog: number | undefined): Backlog {
  return backlog === undefined ? {} : { backlog };
}
