// Worker: the life of a worker: linked to a dispatcher, reconnecting to the next one, draining, closed.
import { EventEmitter } from 'node:events';
import { Server, type Socket } from 'node:net';

import { PassfdError } from '../fd/index.js';
import type { WantedAddress } from '../handoff/index.js';
import { BoardCounts } from './board-counts.js';
import { Capacity } from './capacity.js';
import { Custody } from './custody.js';
import { DirectAccept } from './direct-accept.js';
import { publishDrain } from './drain-channel.js';
import type { End, Link, LinkHost, Returning, Welcome } from './link.js';
import { OpenConnections } from './open-connections.js';
import { Reconnecting, type ReconnectOptions } from './reconnecting.js';
import type { ListenArguments } from './server-handle.js';
import { StandaloneServers } from './standalone-servers.js';
import { Subscriptions } from './subscriptions.js';

interface WorkerEvents {
  /** Nothing new comes any more. Servers finish what is open. */
  drain: [];
  /** The drain is done: no connection is open. */
  drained: [];
  /** The channel to the dispatcher ended. Open connections stay open. With a reason, the dispatcher lives and has disconnected this worker. */
  disconnected: [reason: Error | undefined];
  /** The next dispatcher has taken this worker back. */
  reconnected: [];
  /** No dispatcher came in time, or the dispatcher disconnected this worker. It drains. */
  abandoned: [];
  /** An unexpected failure. The worker drains. */
  error: [error: Error];
}

/** Opens a channel to the dispatcher. */
export type OpenLink = (
  host: LinkHost,
  hello: { readonly capacity: number | null; readonly returns: Returning | undefined },
) => Promise<{ readonly link: Link; readonly welcome: Welcome }>;

type State =
  | { readonly is: 'linked'; readonly link: Link }
  | { readonly is: 'reconnecting' }
  | { readonly is: 'closed' };

/** A worker of a dispatcher. `join` makes one. */
export class Worker extends EventEmitter<WorkerEvents> implements AsyncDisposable {
  readonly #openLink: OpenLink;
  /** The service whose supervisor has started this process; undefined when none has. */
  readonly #service: string | undefined;
  /** The slot of that supervisor: the first id. */
  #slot = 0;
  /** Undefined for a worker that cannot reach another dispatcher. */
  readonly #reconnecting: Reconnecting | undefined;
  readonly #custody = new Custody();
  readonly #capacity: Capacity;
  readonly #open = new OpenConnections({
    closed: () => {
      // First, or the dispatcher would take the closed one for room that the loop has not asked for.
      this.#capacity.report();
      this.#link?.noteClosed();
      this.#direct.resume();
    },
    directClosed: () => {
      // The dispatcher hands few connections off here, so it may know a little later.
      this.#capacity.reportSoon();
      if (this.#isReportingDirect) this.#reportHolding();
      this.#direct.resume();
    },
    holdingChanged: () => {
      this.#reportHolding();
    },
    idle: () => {
      if (this.#isDraining) this.#announce('drained');
    },
  });
  readonly #subscriptions = new Subscriptions({
    link: () => this.#link,
    untilLinked: () => this.#untilLinked(),
    checkOpen: () => {
      if (this.#state.is === 'closed') throw this.#endError();
    },
    isDraining: () => this.#isDraining,
    isFinishing: () => this.isFinishing,
    reference: (change) => {
      this.#reference(change);
    },
    roomChanged: () => {
      // Where the worker accepts by itself, the dispatcher need not know at once what the loop asks for.
      if (this.#direct.isOn) this.#capacity.reportSoon();
      else this.#capacity.report();
      this.#direct.resume();
    },
    readied: () => {
      this.#direct.resume();
    },
    serves: (target, listeners) => {
      this.#direct.serve(target, listeners);
    },
    answered: (target, { isDirect }) => {
      this.#direct.answered(target, isDirect);
    },
    left: (target) => {
      this.#direct.leave(target);
    },
  });
  readonly #counts = new BoardCounts();
  readonly #direct = new DirectAccept(this.#custody, this.#counts, this.#open, {
    mayAccept: () => this.#subscriptions.isReady && this.#capacity.isLeft && !this.#takesNothingNew,
    targetOf: (listener) => this.#subscriptions.targetOf(listener),
    served: () => this.#subscriptions.served(),
    unwatched: (listener) => this.#link?.sayUnwatched(listener),
  });
  readonly #standalone = new StandaloneServers(this.#open);
  readonly #closing = new AbortController();
  #state: State = { is: 'closed' };
  #welcome: Welcome | undefined;
  #isDraining = false;
  /** Whether the dispatcher was told of connections as held that this worker has accepted by itself. */
  #isReportingDirect = false;
  /** How many things keep the process alive. */
  #references = 0;
  /** Settles when the next dispatcher has come, or none comes any more. */
  #reconnected: Promise<void> = Promise.resolve();

  /** @internal */
  constructor(
    openLink: OpenLink,
    options: {
      readonly reconnect: ReconnectOptions | undefined;
      readonly capacity: number | null;
      readonly service?: string | undefined;
    },
  ) {
    super();
    this.#openLink = openLink;
    this.#service = options.service;
    this.#reconnecting = options.reconnect && new Reconnecting(options.reconnect);
    this.#capacity = new Capacity(
      options.capacity,
      this.#open,
      this.#subscriptions,
      () => this.#link,
      () => this.#counts.unseen,
    );
  }

  /** Opens the first channel. @throws {PassfdError} as `join` @internal */
  async connect(): Promise<void> {
    this.#watch(await this.#openChannel(undefined));
    this.#slot = this.id;
  }

  /** The number of this worker in `passfd status` and `passfd drain ID`. The next dispatcher may give it another one. */
  get id(): number {
    return this.#welcome?.id ?? 0;
  }

  /** Whether the dispatcher has addresses of its own, whose connections `serve` and `connections` take. */
  get serves(): boolean {
    return this.#welcome?.serves ?? false;
  }

  /** The number of open connections, also of those that this process passed on and that another one has open. */
  get active(): number {
    return this.#open.active;
  }

  /** Whether this process has served, and takes nothing new: a later `listen` of its app is its own. @internal */
  get isFinishing(): boolean {
    return this.#subscriptions.isReady && this.#takesNothingNew;
  }

  /**
   * The number of connections that may be open here at most, or null for no limit. Default: null. Further connections go to
   * other workers, or wait. It may be set at any time; the dispatcher gets the last value of each millisecond.
   * @throws {TypeError} when it is set to anything but null or an integer from 0
   */
  get capacity(): number | null {
    return this.#capacity.limit;
  }

  set capacity(capacity: number | null) {
    this.#capacity.limit = capacity;
    this.#direct.resume();
  }

  /** Whether this server may have the connections of the dispatcher's own addresses. @internal */
  mayServe(server: Server): boolean {
    return this.serves && this.#subscriptions.mayServe(server);
  }

  /**
   * Gives a server the connections of the dispatcher's own addresses. The server behaves as if it listened there by itself.
   * Resolves when it listens; then `ready` is not needed. Waits for the next dispatcher when there is none.
   * @param server any `net.Server`, also one of http, https, http2 or tls
   * @throws {TypeError} when it is no `net.Server`, or listens already
   * @throws {PassfdError} `ERR_NO_ADDRESS` when the dispatcher has no address; `ERR_ADDRESS_IN_USE` when another server or
   * loop of this process has the connections; `ERR_CLOSED` when the server was closed meanwhile, or this worker drains or
   * was closed; `ERR_LISTEN` when the dispatcher cannot listen; `ERR_PEER_GONE` when no dispatcher comes any more
   */
  async serve(server: Server): Promise<void> {
    if (!(server instanceof Server)) throw new TypeError('serve takes a net.Server');
    if (server.listening) throw new TypeError('The server listens already: pass one that does not');
    if (this.#state.is === 'closed') throw this.#endError();
    if (this.#isDraining) throw new PassfdError('ERR_CLOSED', 'This worker drains, and takes nothing new');
    await this.#subscriptions.listen(server);
    this.ready();
  }

  /**
   * What an intercepted `listen` does.
   * @param wanted the address. Default: the dispatcher's own addresses
   * @throws {PassfdError} as `Subscriptions.listen`
   * @internal
   */
  listenWith(server: Server, wanted: WantedAddress | undefined, listen: ListenArguments): Promise<void> {
    return this.#subscriptions.listen(server, wanted, listen);
  }

  /**
   * The connections of the dispatcher's own addresses, one by one, until the loop is left, or this worker drains or is
   * closed. Each is a paused `net.Socket`, and belongs to the body of the loop. The dispatcher sends the next one when the
   * loop asks for it, and gives the others to other workers. So a body that is awaited serves one client at a time.
   * @throws {PassfdError} as `serve`, when the loop begins
   */
  connections(): AsyncGenerator<Socket, void, undefined> {
    return this.#subscriptions.loop();
  }

  /** Has a drain wait for the connections of a server that listens by itself. @internal */
  watchStandalone(server: Server): void {
    this.#standalone.watch(server);
  }

  /**
   * Reports that connections may come, for everything that listens. `serve` and `connections` do it by themselves, as does
   * a server that stays open after its 'listening'. A second call does nothing.
   */
  ready(): void {
    this.#subscriptions.ready();
  }

  /** Takes nothing new, closes the servers gracefully, and resolves when no connection is open. Has no time limit. */
  async drain(): Promise<void> {
    if (!this.#isDraining) this.#link?.sayDraining();
    this.#beginDraining();
    if (!this.#open.isIdle) await new Promise<void>((resolve) => this.once('drained', resolve));
  }

  /** Reports why this process is about to end to the process that started it. @internal */
  sayLastWords(text: string): void {
    this.#link?.sayLastWords(text);
  }

  /** Leaves the dispatcher. Connections stay open. Resolves when the channel has ended. A second call does nothing. */
  async close(): Promise<void> {
    const link = this.#link;
    this.#state = { is: 'closed' };
    this.#closing.abort();
    this.#direct.close();
    this.#counts.hide();
    this.#custody.close();
    this.#reconnecting?.close();
    this.#subscriptions.endLoop();
    if (!link) return;
    link.close();
    await link.ended;
  }

  /** The same as `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  get #link(): Link | undefined {
    return this.#state.is === 'linked' ? this.#state.link : undefined;
  }

  get #takesNothingNew(): boolean {
    return this.#isDraining || this.#link?.isDraining === true;
  }

  get #isReconnecting(): boolean {
    return this.#state.is === 'reconnecting';
  }

  /** @throws {PassfdError} as `join`; `ERR_CLOSED` when this worker was closed meanwhile */
  async #openChannel(returns: Returning | undefined): Promise<Link> {
    const closedBefore = this.#open.closed;
    // The next board may come at once after the welcome. No dispatcher reads the one before any more.
    this.#counts.hide();
    const capacity = this.#capacity.present;
    const { link, welcome } = await this.#openLink(
      {
        targetOf: (listener) => this.#subscriptions.targetOf(listener),
        isDraining: () => this.#isDraining,
        drainRequested: () => {
          this.#beginDraining();
        },
        opened: (count) => {
          this.#open.add(count);
        },
        closed: (passedOn) => {
          this.#open.close(passedOn);
        },
        custodyGiven: (listener, kept) => {
          this.#custody.keep(listener, kept);
          this.#direct.custodyChanged();
        },
        custodyLost: (listener, key) => {
          this.#custody.noteLost(key);
          this.#direct.custodyLost(listener, key);
        },
        custodyReleased: (listeners, stale) => {
          this.#custody.release(listeners);
          if (stale) this.#custody.releaseStale();
          this.#direct.custodyChanged();
        },
        boardGiven: (descriptor) => {
          if (!this.#counts.receive(descriptor)) this.#direct.boardLost();
          this.#reportHolding();
        },
        watchAsked: (listener, on, place) => {
          this.#direct.watch(listener, on, place);
          this.#reportHolding();
        },
        orphaned: () => {
          if (this.#reconnecting && this.#counts.hasBoard) this.#direct.accept();
        },
        ticketsChanged: (listener, secret) => {
          this.#subscriptions.changeTickets(listener, secret);
        },
      },
      { capacity, returns },
    );
    if (this.#closing.signal.aborted) {
      link.close();
      await link.ended;
      throw this.#endError();
    }
    this.#state = { is: 'linked', link };
    this.#welcome = welcome;
    this.#capacity.noteSent(capacity);
    this.#capacity.report();
    this.#reportHolding();
    if (this.#isDraining) link.sayDraining();
    // The hello said how many are open. These were closed since then.
    for (let count = this.#open.closed - closedBefore; count > 0 && returns; count--) link.noteClosed();
    link.setReferenced(this.#references > 0);
    return link;
  }

  #watch(link: Link): void {
    link.ended
      .then((end) => this.#onEnded(link, end))
      .catch((error: unknown) => {
        process.nextTick(() => this.emit('error', error as Error));
      });
  }

  async #onEnded(link: Link, end: End): Promise<void> {
    if (this.#link !== link) return;
    this.#state = { is: 'reconnecting' };
    // A dispatcher that hands every connection off gives no board. Then clients wait for the next one, and for its policy.
    const isGoverned = this.#counts.hasBoard;
    this.#counts.restart();
    const reason = end.is === 'farewell' ? end.error : undefined;
    process.nextTick(() => this.emit('disconnected', reason));
    // A dispatcher that has disconnected this worker would do it again.
    if (!this.#reconnecting || end.is === 'farewell' || this.#isDraining) {
      this.#giveUp();
      return;
    }
    if (isGoverned) this.#direct.accept();
    this.#reconnected = this.#reconnect(this.#reconnecting);
    await this.#reconnected;
  }

  async #reconnect(reconnecting: Reconnecting): Promise<void> {
    let link: Link | undefined;
    try {
      link = await reconnecting.run(
        () => this.#linkAgain(),
        // A worker that drains needs no other dispatcher.
        () => this.#isReconnecting && !this.#isDraining,
        this.#closing.signal,
      );
    } finally {
      if (this.#isReconnecting) this.#giveUp();
    }
    if (!link) return;
    this.#announce('reconnected');
    this.#watch(link);
  }

  async #linkAgain(): Promise<Link> {
    try {
      this.#custody.forgetListeners();
      this.#subscriptions.forgetListeners();
      const child = this.#service === undefined ? undefined : { slot: this.#slot, service: this.#service };
      const returns = { id: this.id, open: this.#open.fromDispatchers, custody: this.#custody.kept, child };
      const link = await this.#openChannel(returns);
      await this.#subscriptions.askAgain(link);
      return link;
    } catch (error) {
      // The dispatcher is gone again, before everything was asked.
      const link = this.#link;
      if (link) {
        link.close();
        this.#state = { is: 'reconnecting' };
        if (this.#counts.hasBoard) this.#direct.accept();
      }
      throw error;
    }
  }

  /** @throws {PassfdError} as `#endError` */
  async #untilLinked(): Promise<Link> {
    while (this.#isReconnecting) await this.#reconnected;
    if (!this.#link) throw this.#endError();
    return this.#link;
  }

  #giveUp(): void {
    this.#beginDraining();
    this.#state = { is: 'closed' };
    this.#counts.hide();
    this.#custody.close();
    this.#reconnecting?.close();
    this.#announce('abandoned');
  }

  /** Why no dispatcher can be asked for anything any more. */
  #endError(): PassfdError {
    return this.#closing.signal.aborted
      ? new PassfdError('ERR_CLOSED', 'This worker was closed')
      : new PassfdError('ERR_PEER_GONE', 'This worker has no dispatcher any more');
  }

  #beginDraining(): void {
    if (this.#isDraining) return;
    this.#isDraining = true;
    this.#direct.close();
    this.#reportHolding();
    this.#subscriptions.drain();
    this.#standalone.drain();
    this.#open.hurry();
    publishDrain();
    this.#announce('drain');
    if (this.#open.isIdle) this.#announce('drained');
  }

  /**
   * Reports whether connections are open that the dispatcher does not count: of standalone servers, and those that this
   * worker has accepted and that no board shows. In a drain the others are reported too, since a dispatcher of an earlier
   * release may have taken over, which knows no board.
   */
  #reportHolding(): void {
    const isDirectHeld = (this.#isDraining ? this.#open.direct : this.#counts.unseen) > 0;
    this.#isReportingDirect = isDirectHeld;
    this.#link?.setHolding(this.#open.isHolding || isDirectHeld);
  }

  /** Emits in a tick of its own. So an exception of a listener is an ordinary one, and stops nothing here. */
  #announce(event: 'drain' | 'drained' | 'reconnected' | 'abandoned'): void {
    process.nextTick(() => this.emit(event));
  }

  #reference(change: 1 | -1): void {
    this.#references += change;
    const isNeeded = this.#references > 0;
    this.#link?.setReferenced(isNeeded);
    this.#reconnecting?.setReferenced(isNeeded);
  }
}
