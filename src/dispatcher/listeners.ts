// Listeners: the listening sockets of a dispatcher, each with a number for workers and a key for the next dispatcher.
import {
  Acceptor,
  Descriptor,
  formatAddress,
  listen,
  PassfdError,
  type Address,
  type AddressLike,
  type ListenOptions,
} from '../fd/index.js';
import type { CustodyLabel, WantedAddress } from '../handoff/index.js';
import { Listener, type ListenerIdentity, type FormerListener } from './listener.js';
import type { ListenerSnapshot } from './succession/snapshot.js';

/** Listeners have 16 bits in the protocol (`docs/protocol.md`, HANDOFF). */
const MAX_LISTENER_ID = 65_535;

/** An address of the dispatcher's own; also `{ fd }`, a listening socket that this process has inherited and keeps. */
export type OwnAddress = AddressLike | { readonly fd: number };

export interface ListenersEvents {
  opened(listener: Listener): void;
  /** Nobody can reach this socket of its address any more: what waits there is to be taken. May throw. */
  stranded(listener: Listener, acceptor: Acceptor): void;
  /** Another socket is at its address, and the one before is closed. */
  exchanged(listener: Listener): void;
  /** Nothing comes from it any more. */
  closing(listener: Listener): void;
  /** The address is free, or somebody else's. */
  closed(address: Address): void;
  /** A client of a Unix socket was refused: see `Acceptor.distrustPeers`. */
  refusedPeer(error: PassfdError): void;
  /** The socket is closed; its file could not be removed. */
  warned(error: unknown): void;
}

/** A listening socket that somebody else has kept for workers that ask for its address. */
export interface OfferedSocket {
  readonly descriptor: Descriptor;
  /** Whether another process has made it, and keeps it; else an earlier process of this service has. */
  readonly isInherited: boolean;
}

/** The same, while it is here. */
export interface Offered {
  readonly acceptor: Acceptor;
  readonly isInherited: boolean;
}

type Backlog = Pick<ListenOptions, 'backlog'>;

/** A listening socket that was in custody, until somebody asks for it again, or it is one with another one. */
interface Returned {
  readonly label: CustodyLabel;
  readonly acceptor: Acceptor;
  /** Whether who waits there could not be taken yet, and the reason was told. */
  readonly isStuck?: boolean;
}

export class Listeners implements Iterable<Listener> {
  readonly #events: ListenersEvents;
  readonly #listeners = new Map<number, Listener>();
  /** Those that are being opened for workers, by their keys. */
  readonly #opening = new Map<string, Promise<Listener>>();
  /** By the identity of the socket, since every worker brings each. */
  readonly #returned = new Map<string, Returned>();
  /** For whoever asks for their addresses. */
  readonly #offered: Offered[] = [];
  /** Those whose sockets are being opened anew. */
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

  /** Whether another process had made its socket, and a worker got it by its address: it cannot be opened again here. */
  wasOffered({ key }: Listener): boolean {
    return originOf(key) === 'wanted-fd' && !('fd' in wantedIn(key));
  }

  /** What is open where this one was: somebody has asked for it in the same words, or it has the same address. */
  at({ key, address }: FormerListener): Listener | undefined {
    const listeners = [...this];
    const wanted = formatAddress(address);
    return (
      listeners.find((listener) => listener.key === key) ??
      listeners.find((listener) => formatAddress(listener.address) === wanted)
    );
  }

  /** Those whose connections go to all workers that serve. */
  get own(): Listener[] {
    return [...this].filter(({ isOwn }) => isOwn);
  }

  /** Those that nobody has asked for yet. */
  get offered(): readonly Offered[] {
    return this.#offered;
  }

  /** @throws {PassfdError} as `listen` of `passfd` */
  async openOwn(address: OwnAddress, backlog: number | undefined): Promise<Listener> {
    const key = this.#unusedKey(ownKey(address));
    // Not by its key: the number may be another socket's than in the process that died.
    if (typeof address === 'object' && 'fd' in address) {
      return this.#open(inherited(address.fd), { key, isOwn: true, backlog });
    }
    const returned = await this.#takeReturned(key);
    if (!returned) {
      const wanted = typeof address === 'string' ? { path: address } : address;
      await this.#endOfferedWhere((offered) => isInTheWay(offered, wanted));
    }
    const acceptor = returned ?? (await listen(address, withBacklog(backlog)));
    return this.#open(acceptor, { key, isOwn: true, backlog });
  }

  /** The first worker that asks for an address makes it; the others get the same one. @throws {PassfdError} as `listen` */
  async openWanted(address: WantedAddress, backlog: number): Promise<Listener> {
    const key = wantedKey(address);
    const existing = await this.#find(key, address);
    if (existing) {
      // Most apps that listen at a path remove what is there first. Where that fails, other workers serve there all the same.
      await this.restoreFile(existing).catch((error: unknown) => {
        this.#events.warned(error);
      });
      return existing;
    }
    return this.#openNew(key, address, { backlog });
  }

  /**
   * Opens an address again that a worker had asked for, unless it is open. It has the port that it had, also where the
   * kernel had picked that, and the next worker that asks for it in the same words gets it.
   * @returns undefined when another program has it
   * @throws {PassfdError} as `listen`
   */
  async reopen(former: FormerListener): Promise<Listener | undefined> {
    const { key, address, backlog } = former;
    const open = this.at(former);
    if (open || originOf(key) !== 'wanted') return open;
    const asked = wantedIn(key);
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
    const offered = this.#takeOffered(address);
    const opening = offered
      ? Promise.resolve(
          this.#open(offered.acceptor, {
            key: offered.isInherited ? inheritedKey(address) : key,
            isOwn: false,
            ...options,
          }),
        )
      : this.#endOfferedWhere((other) => isInTheWay(other, address))
          .then(() => openWanted(address, options))
          .then((acceptor) => this.#open(acceptor, { key, isOwn: false, ...options }));
    this.#opening.set(key, opening);
    try {
      return await opening;
    } finally {
      this.#opening.delete(key);
    }
  }

  /**
   * Takes in a listening socket that a worker had in custody. What workers had asked for is open again from here on;
   * an own address of the dispatcher's waits for `openOwn`.
   * @throws when its file cannot be looked at; then it is closed
   */
  async takeReturned(label: CustodyLabel, descriptor: Descriptor): Promise<void> {
    // Its last server was closed, and the dispatcher died before all custodians knew.
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
    const origin = originOf(key);
    const removesFile = !origin.endsWith('-fd');
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
    } else if (origin.startsWith('own')) {
      this.#returned.set(identity, { label, acceptor });
    } else {
      const twin = removesFile ? this.#twinOf(label, acceptor) : undefined;
      if (twin) await this.#merge(twin, { label, acceptor });
      else this.#open(acceptor, { key, isOwn: false, backlog });
    }
  }

  /** Where another socket of the same path was brought before: a worker had not got the one that it was exchanged for. */
  #twinOf({ key }: CustodyLabel, { address }: Acceptor): Listener | undefined {
    return 'path' in address ? [...this].find((listener) => listener.key === key) : undefined;
  }

  /** Goes on with the one of two sockets that clients can reach, and with who waits at the other one. */
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
      // A socket that is closed resets who waits there: not before `closeReturned`.
      if (returned.isStuck !== true) this.#events.warned(error);
      if (this.#isKnown(stranded.inode)) stranded.release().close();
      else this.#returned.set(stranded.inode, { label: returned.label, acceptor: stranded, isStuck: true });
      return;
    }
    // Workers of an earlier release say nothing of the file: then both have the one at their path.
    if (stranded.fileIdentity === listener.acceptor.fileIdentity) stranded.release().close();
    else await this.#closeAcceptor(stranded);
  }

  /** Goes on with a listening socket of another generation, under the number that workers know. */
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

  /** Takes over listening sockets that workers may ask for. @throws {PassfdError} `ERR_WRONG_KIND` */
  async offer(sockets: readonly OfferedSocket[]): Promise<void> {
    for (const { descriptor, isInherited } of sockets) {
      // A worker has brought it, and it may be open again.
      if (this.#isKnown(descriptor.inode)) {
        descriptor.close();
        continue;
      }
      const acceptor = await Acceptor.inherit(descriptor, { removesFile: !isInherited });
      this.#guard(acceptor);
      this.#offered.push({ acceptor, isInherited });
    }
  }

  /**
   * Opens a socket anew whose file somebody has removed: nobody could reach it any more. What is inherited is another one's
   * to open. @throws {PassfdError} as `listen`; then it is as before
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

  /** Resolves when none is being opened anew. */
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

  /** Nobody asks for what was offered any more. */
  endOffered(): Promise<void> {
    return this.#endOfferedWhere(() => true);
  }

  /** Closes what was offered here, and it lives on with whoever keeps it. */
  async closeOffered(): Promise<void> {
    await Promise.all(this.#offered.splice(0).map(({ acceptor }) => this.#closeAcceptor(acceptor)));
  }

  /** Nobody asks for what was returned any more. It stays where no descriptor is free for who waits: call it again then. */
  async closeReturned(): Promise<void> {
    const all = [...this.#returned.values()];
    this.#returned.clear();
    for (const returned of all) {
      const { label, acceptor } = returned;
      const twin = this.#twinOf(label, acceptor);
      await (twin ? this.#merge(twin, returned) : this.#closeAcceptor(acceptor));
    }
  }

  /** Closes it here. Where workers have it in custody, clients may still connect, until those have closed it too. */
  close(listener: Listener): Promise<void> {
    return this.#remove(listener, () => listener.acceptor.close());
  }

  /** Closes it wherever it is in custody: the address is free then. A socket that was inherited may be somebody else's too. */
  end(listener: Listener): Promise<void> {
    return this.#remove(listener, () =>
      listener.isInherited ? listener.acceptor.close() : listener.acceptor.shutdown(),
    );
  }

  /** Ends them for whoever keeps them; those that are somebody else's are closed here only. */
  async #endOfferedWhere(isUnwanted: (offered: Offered) => boolean): Promise<void> {
    for (const one of this.#offered.filter(isUnwanted)) {
      this.#offered.splice(this.#offered.indexOf(one), 1);
      const { acceptor, isInherited } = one;
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

  /** Anybody may connect to a Unix socket, within its mode. */
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

  /** Several listening sockets at port 0 are asked for in the same words, and the next dispatcher asks in the same order. */
  #unusedKey(words: string): string {
    const keys = new Set(Array.from(this, ({ key }) => key));
    let key = words;
    for (let count = 2; keys.has(key); count++) key = `${words} ${count}`;
    return key;
  }

  /** Not one that was just given back: connections of that may be on their way. */
  #freeId(): number {
    for (let tries = 0; tries <= MAX_LISTENER_ID; tries++) {
      const id = this.#nextId;
      this.#nextId = id === MAX_LISTENER_ID ? 0 : id + 1;
      if (!this.#listeners.has(id)) return id;
    }
    throw new PassfdError('ERR_QUOTA', `More than ${MAX_LISTENER_ID} addresses are open`);
  }

  /** An address that is open already, whoever asked for it, and in whatever words. */
  #find(key: string, address: WantedAddress): Promise<Listener> | Listener | undefined {
    const keys = [key, inheritedKey(address)];
    const same = [...this].find((listener) => keys.includes(listener.key)) ?? this.#opening.get(key);
    if (same) return same;
    const names = namesOf(address);
    return [...this].find((listener) => names.includes(formatAddress(listener.address)));
  }

  #takeOffered(address: WantedAddress): Offered | undefined {
    const names = namesOf(address);
    const index = this.#offered.findIndex(({ acceptor }) => names.includes(formatAddress(acceptor.address)));
    return index < 0 ? undefined : this.#offered.splice(index, 1)[0];
  }

  #isKnown(inode: string): boolean {
    return this.#returned.has(inode) || [...this].some(({ acceptor }) => acceptor.inode === inode);
  }

  /** The same socket came in another way too, as from the store of a service manager: its file stays. */
  #dropOthers({ inode }: Acceptor): void {
    this.#returned.get(inode)?.acceptor.release().close();
    this.#returned.delete(inode);
    const index = this.#offered.findIndex(({ acceptor }) => acceptor.inode === inode);
    if (index >= 0) this.#offered.splice(index, 1)[0]?.acceptor.release().close();
  }

  /** Of several, the one that clients can reach. */
  async #takeReturned(key: string): Promise<Acceptor | undefined> {
    let found: Acceptor | undefined;
    for (const { label, acceptor } of this.#returned.values()) {
      if (label.key === key && (!found || (await acceptor.isReachable()))) found = acceptor;
    }
    if (found) this.#returned.delete(found.inode);
    return found;
  }
}

/** Of the addresses that are as good as the wanted one; none where only its words can tell. */
function namesOf(wanted: WantedAddress): string[] {
  if ('fd' in wanted) return [];
  if ('path' in wanted) return [formatAddress(wanted)];
  const { host, port, ipv6Only } = wanted;
  if (port === 0) return [];
  if (host !== null) return [formatAddress({ host, port })];
  // Without a host, nobody can listen beside either; see also `openWanted`.
  return (ipv6Only ? ['::'] : ['::', '0.0.0.0']).map((any) => formatAddress({ host: any, port }));
}

/** Whether nobody can listen where it is wanted before this one is ended, and it is ours to end. */
function isInTheWay({ acceptor, isInherited }: Offered, wanted: WantedAddress | Address): boolean {
  if (isInherited || 'fd' in wanted) return false;
  const other = acceptor.address;
  if ('path' in wanted || 'path' in other) {
    return 'path' in wanted && 'path' in other && wanted.path === other.path;
  }
  const hosts = [wanted.host ?? '::', other.host];
  const isShared = hosts.some((host) => host === '::' || host === '0.0.0.0') || hosts[0] === hosts[1];
  return wanted.port === other.port && isShared;
}

/** What a key begins with: who asked for the address; and `-fd`, where the socket and its file are somebody else's. */
type Origin = 'own' | 'own-fd' | 'wanted' | 'wanted-fd';

/** As it was asked for: at port 0, the next dispatcher gets the port that the kernel had picked. */
function ownKey(address: OwnAddress): string {
  if (typeof address === 'object' && 'fd' in address) return keyOf('own-fd', String(address.fd));
  return keyOf('own', typeof address === 'string' ? address : formatAddress(address));
}

function wantedKey(address: WantedAddress): string {
  return keyOf('fd' in address ? 'wanted-fd' : 'wanted', JSON.stringify(address));
}

/** Of a socket that was offered, and that somebody else keeps. */
function inheritedKey(address: WantedAddress): string {
  return keyOf('wanted-fd', JSON.stringify(address));
}

/** The options of its `listen`. */
function askedFor({ key, backlog }: Listener): ListenOptions {
  return { ...modeIn(key), ...withBacklog(backlog) };
}

function withBacklog(backlog: number | undefined): Backlog {
  return backlog === undefined ? {} : { backlog };
}

/** The file mode that a worker has asked for. */
function modeIn(key: string): ListenOptions {
  if (originOf(key) !== 'wanted') return {};
  const asked = wantedIn(key);
  return 'mode' in asked ? { mode: asked.mode } : {};
}

/** What a worker has asked for, by the key of that. */
function wantedIn(key: string): WantedAddress {
  return JSON.parse(key.slice(key.indexOf(' '))) as WantedAddress;
}

function keyOf(origin: Origin, rest: string): string {
  return `${origin} ${rest}`;
}

function originOf(key: string): string {
  return key.slice(0, key.indexOf(' '));
}

/** @throws {PassfdError} `ERR_WRONG_KIND`, `ERR_DESCRIPTOR_CLOSED` */
function inherited(fd: number): Acceptor {
  const borrowed = new Descriptor(fd);
  try {
    using duplicate = borrowed.duplicate();
    return new Acceptor(duplicate);
  } finally {
    borrowed.release();
  }
}

async function openWanted(address: WantedAddress, options: Backlog): Promise<Acceptor> {
  if ('fd' in address) return inherited(address.fd);
  if ('path' in address) return listen(address.path, { ...options, mode: address.mode });
  const { host, port, ipv6Only } = address;
  if (host !== null) return listen({ host, port }, { ...options, ipv6Only });
  try {
    return await listen({ host: '::', port }, { ...options, ipv6Only });
  } catch (error) {
    // As Node: IPv4 alone where this machine has no IPv6 (net, server.listen).
    if (error instanceof PassfdError && error.code === 'ERR_ADDRESS') {
      return listen({ host: '0.0.0.0', port }, options);
    }
    throw error;
  }
}
