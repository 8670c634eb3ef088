// ControlSockets: the sockets at which workers and commands join, the control socket and the raw one, each at most once.
import { Acceptor, listen, PassfdError, StreamSocket, type Descriptor } from '../fd/index.js';
import type { WorkerHello } from '../handoff/index.js';
import { checkPeer, Control, modeFor, type ControlOptions, type Joined } from './control.js';
import type { Lifetime } from './lifetime.js';
import type { Snapshot } from './succession/snapshot.js';

/** Raw workers that are accepted in one turn of the event loop. */
const RAW_WORKERS_AT_ONCE = 16;

export interface ControlSocketsEvents {
  worker(joined: Joined, hello: WorkerHello): void;
  recipeWorker(joined: Joined, pid: number, dialect: 'multiprocessing' | 'raw'): void;
  opened(acceptor: Acceptor): void;
  /** The file of a socket had been removed. Another socket is at its path now. */
  reopened(acceptor: Acceptor): void;
  refusedPeer(error: PassfdError): void;
  warned(error: unknown): void;
}

type Name = 'control socket' | 'raw control socket';

export class ControlSockets {
  readonly #lifetime: Lifetime;
  readonly #events: ControlSocketsEvents;
  /** Open, or being opened. */
  readonly #taken = new Set<Name>();
  #control: Control | undefined;
  #raw: Acceptor | undefined;
  #rawOptions: ControlOptions = {};

  constructor(lifetime: Lifetime, events: ControlSocketsEvents) {
    this.#lifetime = lifetime;
    this.#events = events;
  }

  /**
   * Takes the path. Peers wait until `Control.start`.
   * @throws {PassfdError} as `listen`; `ERR_ALREADY_OPEN`, `ERR_CLOSED`
   */
  open(path: string, options: ControlOptions): Promise<Control> {
    return this.#openOnce(
      'control socket',
      () => Control.open(path, options),
      (control) => {
        this.#useControl(control);
      },
    );
  }

  /** @throws {PassfdError} as `open` */
  async openRaw(path: string, options: ControlOptions): Promise<void> {
    await this.#openOnce(
      'raw control socket',
      () => listen(path, { mode: modeFor(options) }),
      (acceptor) => {
        this.#useRaw(acceptor, options);
      },
    );
  }

  /** Takes over the sockets of another generation. */
  async restore(
    { control, rawControl }: Pick<Snapshot, 'control' | 'rawControl'>,
    options: ControlOptions,
  ): Promise<void> {
    if (control) {
      const acceptor = await Acceptor.inherit(control.descriptor, control);
      this.#taken.add('control socket');
      this.#useControl(await Control.open(acceptor, options));
    }
    if (rawControl) {
      this.#taken.add('raw control socket');
      this.#useRaw(await Acceptor.inherit(rawControl.descriptor, rawControl), options);
    }
  }

  get control(): Acceptor | undefined {
    return this.#control?.acceptor;
  }

  get raw(): Acceptor | undefined {
    return this.#raw;
  }

  /** A descriptor is free again, which the control socket may need for its reserve. */
  resume(): void {
    this.#control?.acceptor.resume();
  }

  /**
   * Opens a socket anew if its file was removed. Peers that wait at the old socket are accepted.
   * @returns the results; a socket that cannot be opened stays as it is
   */
  restoreFiles(): Promise<void>[] {
    return [this.#restoreControl(), this.#restoreRaw()];
  }

  /** Resolves when every peer that had connected has introduced itself or was cut off. Later peers wait in the backlog. */
  async freeze(): Promise<void> {
    await this.#control?.freeze();
    this.#raw?.resume();
  }

  thaw(): void {
    this.#raw?.resume();
    this.#control?.thaw();
    this.#control?.start();
  }

  async disown(): Promise<void> {
    if (this.#raw?.closed === false) this.#raw.release().close();
    await this.#control?.disown();
  }

  async close(): Promise<void> {
    await this.#control?.close();
    await this.#raw?.close();
  }

  async #openOnce<T extends Control | Acceptor>(
    name: Name,
    open: () => Promise<T>,
    keep: (opened: T) => void,
  ): Promise<T> {
    if (this.#taken.has(name)) {
      throw new PassfdError('ERR_ALREADY_OPEN', `This dispatcher has a ${name} already`);
    }
    this.#taken.add(name);
    try {
      return await this.#lifetime.open(open, (opened) => opened.close(), keep);
    } catch (error) {
      this.#taken.delete(name);
      throw error;
    }
  }

  #useControl(control: Control): void {
    this.#control = control;
    this.#events.opened(control.acceptor);
    control.on('worker', (joined, hello) => {
      this.#events.worker(joined, hello);
    });
    control.on('multiprocessingWorker', (joined, pid) => {
      this.#events.recipeWorker(joined, pid, 'multiprocessing');
    });
    control.on('refused', (error) => {
      this.#events.refusedPeer(error);
    });
    control.on('warned', (error) => {
      this.#events.warned(error);
    });
  }

  #useRaw(acceptor: Acceptor, options: ControlOptions): void {
    this.#raw = acceptor;
    this.#rawOptions = options;
    this.#events.opened(acceptor);
    acceptor.distrustPeers((error) => {
      this.#events.refusedPeer(error);
    });
    acceptor.feed({
      room: () => (this.#lifetime.isFrozen ? 0 : RAW_WORKERS_AT_ONCE),
      take: (descriptors) => {
        for (const descriptor of descriptors) this.#takeRaw(descriptor);
      },
      failed: (error, isRepeated) => {
        if (!isRepeated) this.#events.warned(error);
      },
    });
  }

  #takeRaw(descriptor: Descriptor): void {
    const socket = new StreamSocket(descriptor);
    try {
      const { peer } = socket;
      checkPeer(peer, this.#rawOptions);
      this.#events.recipeWorker({ socket, peer }, peer.pid, 'raw');
    } catch (error) {
      socket.discard();
      if (!(error instanceof PassfdError)) throw error;
      this.#events.refusedPeer(error);
    }
  }

  async #restoreControl(): Promise<void> {
    const acceptor = await this.#control?.restoreFile();
    if (!acceptor) return;
    this.#events.opened(acceptor);
    this.#events.reopened(acceptor);
  }

  async #restoreRaw(): Promise<void> {
    const before = this.#raw;
    if (!before || !('path' in before.address) || (await before.isReachable())) return;
    const fresh = await listen(before.address, { mode: modeFor(this.#rawOptions) });
    let waiting;
    try {
      if (!before.closed) waiting = before.acceptNow();
    } finally {
      if (!waiting) await fresh.close();
    }
    if (!waiting) return;
    this.#useRaw(fresh, this.#rawOptions);
    for (const descriptor of waiting) this.#takeRaw(descriptor);
    await before.close();
    this.#events.reopened(fresh);
  }
}
