// Worker: the code in a worker process that takes connections from a dispatcher and gives them to servers.
import { AsyncResource } from 'node:async_hooks';
import { EventEmitter } from 'node:events';
import { Server, type Socket } from 'node:net';

import { PassfdError, type Address, type ErrorCode } from '../fd/index.js';
import { type SocketIdentity } from '../fd/internal.js';
import type { Listening, TicketSecret, WantedAddress } from '../handoff/index.js';
import { tellDrain } from './drain-channel.js';
import { Intake } from './intake.js';
import { Custody } from './custody.js';
import type { End, Granted, Link, LinkEvents, Returning, TicketRequest, Welcome } from './link.js';
import { privateServer, watchStandalone } from './node-handles.js';
import { PassedOn } from './passed-on.js';
import { closeGracefully, finishConnections, prepareClosing } from './server-closing.js';
import { ServerHandle, type ListenArguments } from './server-handle.js';
import type { Target } from './target.js';
import { shareTickets, stopSharingTickets, ticketSecretOf } from './ticket-keys.js';

interface WorkerEvents {
  /** Nothing new comes any more; what is open is to be finished. */
  drain: [];
  /** Nothing is open any more. */
  drained: [];
  /** The channel to the dispatcher ended. What was adopted goes on. */
  disconnected: [reason: Error | undefined];
  reconnected: [];
  /** No dispatcher comes for this worker any more: nothing new comes, and what is open is to be finished. */
  abandoned: [];
  /** Something failed that the worker cannot recover from. */
  error: [error: Error];
}

/** Opens a channel to the dispatcher. */
export type OpenLink = (
  events: LinkEvents,
  hello: { readonly capacity: number | null; readonly returns: Returning | undefined },
) => Promise<{ readonly link: Link; readonly welcome: Welcome }>;

/** How a worker finds the next dispatcher when its own is gone. */
export interface Reconnecting {
  /** Time in which one has to come. */
  readonly timeoutMs: number;
  /** Resolves when there is a reason to look again before the pause is over. Never rejects. */
  readonly untilChanged: (signal: AbortSignal) => Promise<void>;
  /** It looks for none any more. */
  readonly close: () => void;
}

/** Pauses between two tries to reach a dispatcher that is gone. */
const FIRST_RECONNECT_MS = 20;
const LAST_RECONNECT_MS = 1_000;

/** What an app may set in each turn is told no more often than this: the dispatcher bounds what a worker says. */
const CAPACITY_DELAY_MS = 1;

/** What is met while there is no dispatcher, or while one dies. */
const nobodyThere: ReadonlySet<ErrorCode> = new Set([
  'ERR_ADDRESS_MISSING',
  'ERR_CONNECTION_REFUSED',
  'ERR_PEER_GONE',
  'ERR_EOF',
]);

/** Somebody who listens: one server, or one iterator. */
interface Registration {
  readonly target: Target;
  /** None of an iterator. */
  readonly server: Server | undefined;
  /** What to ask a dispatcher for, the first and each later one. */
  ask(link: Link, granted: Granted): Promise<void>;
  listeners: readonly Listening[];
}

/** What a dispatcher is asked for. */
interface Wish {
  /** Without one, the dispatcher's own addresses. */
  readonly wanted: WantedAddress | undefined;
  readonly backlog: number | undefined;
  /** None for an iterator. */
  readonly server: Server | undefined;
}

/** What became of asking to listen. */
type Outcome = 'listening' | 'idle' | 'closed' | 'finishing' | 'taken' | 'nowhere';

/** Who has the connections of the dispatcher's own addresses, or waits for them. */
interface Claim {
  readonly by: Server | Intake;
}

type State =
  | { readonly is: 'linked'; readonly link: Link }
  | { readonly is: 'reconnecting' }
  | { readonly is: 'closed' };

export class Worker extends EventEmitter<WorkerEvents> implements AsyncDisposable {
  readonly #openLink: OpenLink;
  /** Which service a supervisor has started this process for; undefined where none has. */
  readonly #service: string | undefined;
  /** The slot of that supervisor: the first id. */
  #slot = 0;
  /** None for a worker that has no way to another dispatcher when this one is gone. */
  readonly #reconnecting: Reconnecting | undefined;
  readonly #custody = new Custody();
  readonly #registrations = new Set<Registration>();
  readonly #servers = new Set<Server>();
  readonly #closing = new AbortController();
  #state: State = { is: 'closed' };
  #welcome: Welcome | undefined;
  #capacity: number | null;
  /** What the present dispatcher was told of it. */
  #toldCapacity: number | null = null;
  /** Will tell what the app has set by then, where nothing tells it before. */
  #capacityTimer: NodeJS.Timeout | undefined;
  #claim: Claim | undefined;
  #isReady = false;
  #isDraining = false;
  /** Connections that are open, from whichever dispatcher they came. */
  #open = 0;
  /** Connections that were closed, ever. */
  #closed = 0;
  /** Those of them that are closed here, and open in other processes. */
  readonly #passedOn = new PassedOn();
  /** Servers of this process that listen by themselves: no dispatcher knows of them. */
  readonly #standalone = new Set<Server>();
  /** Connections that these have accepted and that are open. */
  #accepted = 0;
  /** Who needs the process to stay. */
  #references = 0;
  /** Settles when there is another dispatcher, or none any more. */
  #reconnected: Promise<void> = Promise.resolve();
  #pauseTimer: NodeJS.Timeout | undefined;
  /** Why a dispatcher did not take this worker back, as it was told last. */
  #lastRefusal: string | undefined;

  constructor(
    openLink: OpenLink,
    options: {
      readonly reconnecting: Reconnecting | undefined;
      readonly capacity: number | null;
      readonly service?: string | undefined;
    },
  ) {
    super();
    this.#service = options.service;
    this.#openLink = openLink;
    this.#reconnecting = options.reconnecting;
    this.#capacity = options.capacity;
  }

  /** Opens the first channel. @throws {PassfdError} as `join` */
  async connect(): Promise<void> {
    this.#watch(await this.#link(undefined));
    this.#slot = this.id;
  }

  /** Which worker this is: the `ID` of `passfd drain ID`. */
  get id(): number {
    return this.#welcome?.id ?? 0;
  }

  /** Whether the dispatcher has addresses of its own, whose connections `serve` takes. */
  get serves(): boolean {
    return this.#welcome?.serves ?? false;
  }

  /** Connections that are open here, or that this process has passed on and that are open elsewhere. */
  get active(): number {
    return this.#open;
  }

  /** Whether any connection is open, of this worker's or of a server that listens by itself. */
  get #isIdle(): boolean {
    return this.#open === 0 && this.#accepted === 0;
  }

  /** Whether this process has served, and takes nothing new. What its app listens at from then on is the process's own. */
  get isFinishing(): boolean {
    return (
      this.#isReady && (this.#isDraining || (this.#state.is === 'linked' && this.#state.link.isDraining))
    );
  }

  /** Connections that this worker wants to have open at most; null for no limit. */
  get capacity(): number | null {
    return this.#capacity;
  }

  set capacity(capacity: number | null) {
    checkCapacity(capacity);
    this.#capacity = capacity;
    this.#capacityTimer ??= setTimeout(() => {
      this.#capacityTimer = undefined;
      this.#tellCapacity();
    }, CAPACITY_DELAY_MS);
  }

  /** Whether this server may have the connections of the dispatcher's own addresses: nobody else in this process has. */
  mayServe(server: Server): boolean {
    return this.serves && (!this.#claim || this.#claim.by === server);
  }

  /**
   * Has a server take the connections of the dispatcher's own addresses: any `net.Server`, so also one of http, https,
   * http2 or tls. It behaves as if it listened there itself; resolves when it does.
   * @throws {PassfdError} `ERR_NO_ADDRESS` when the dispatcher has no address; `ERR_ADDRESS_IN_USE` when another server,
   * or a loop, has its connections already; `ERR_CLOSED` when the server is closed meanwhile, or this worker drains or was
   * closed; `ERR_PEER_GONE` when no dispatcher comes any more: it waits for one as long as this worker does
   */
  async serve(server: Server): Promise<void> {
    if (!(server instanceof Server)) throw new TypeError('serve takes a net.Server');
    if (server.listening) throw new TypeError('The server listens already: take one that does not');
    if (this.#state.is === 'closed') throw this.#endError();
    if (this.#isDraining) throw new PassfdError('ERR_CLOSED', 'This worker drains: it takes nothing new');
    await this.listenWith(server, undefined, noArguments);
    this.ready();
  }

  /**
   * What `serve` and an intercepted `listen` do.
   * @param wanted an address to listen at; without one, the dispatcher's own
   * @throws {PassfdError} `ERR_CLOSED` when the server was closed, or told to listen elsewhere, before the answer came;
   * `ERR_ADDRESS_IN_USE`; `ERR_LISTEN`, whose `cause` has the code of the system error
   */
  async listenWith(
    server: Server,
    wanted: WantedAddress | undefined,
    listen: ListenArguments,
  ): Promise<void> {
    const { _listeningId: call } = privateServer(server);
    const scope = new AsyncResource('PassfdServer');
    const claim = wanted ? undefined : this.#take(server);
    let outcome = 'nowhere' as Outcome;
    let refused: { readonly address: Address; readonly isOpen: Promise<boolean> } | undefined;
    this.#reference(1);
    try {
      await this.#ask({ wanted, backlog: listen.backlog, server }, (listeners, tickets) => {
        const [first] = listeners;
        if (!first) return;
        if (privateServer(server)._listeningId !== call) {
          outcome = 'closed';
          this.#unlisten(listeners).catch(() => undefined);
        } else if (this.isFinishing) {
          outcome = 'finishing';
          refused = { address: first.address, isOpen: this.#unlisten(listeners) };
        } else if (this.#targetOf(first.id)) {
          outcome = 'taken';
          this.#unlisten(listeners).catch(() => undefined);
        } else {
          outcome = 'listening';
          if (tickets) shareTickets(server, tickets);
          this.#attach(server, { wanted, claim }, listen, listeners, first, scope);
        }
      });
      if (refused && (await refused.isOpen) && privateServer(server)._listeningId === call) {
        outcome = 'idle';
        attachIdle(server, refused.address, listen, scope);
      }
    } finally {
      if (outcome !== 'listening') this.#release(claim);
      this.#reference(-1);
    }
    checkListening(outcome);
  }

  /**
   * The connections of the dispatcher's own addresses, one by one, until the loop is left, or this worker drains or is
   * closed. Each is paused, and belongs to the loop's body. The dispatcher sends one when the loop asks for one, and
   * until then gives them to other workers. So a body that is awaited serves one client at a time.
   * @throws {PassfdError} as `serve`
   */
  connections(): AsyncGenerator<Socket, void, undefined> {
    const intake = new Intake(() => {
      this.#tellCapacity();
    });
    const loop = this.#loop(intake);
    // A generator takes up neither while a `next` waits, and that may be for ever: so that one is to end first.
    const leave = loop.return.bind(loop);
    const fail = loop.throw.bind(loop);
    return Object.assign(loop, {
      return: (value: void | PromiseLike<void>) => {
        intake.end();
        return leave(value);
      },
      throw: (error: unknown) => {
        intake.end();
        return fail(error);
      },
    });
  }

  async *#loop(intake: Intake): AsyncGenerator<Socket, void, undefined> {
    if (this.#isDraining) return;
    if (this.#state.is === 'closed') throw this.#endError();
    const claim = this.#take(intake);
    this.#tellCapacity();
    this.#reference(1);
    let registration: Registration | undefined;
    try {
      await this.#ask({ wanted: undefined, backlog: undefined, server: undefined }, (listeners) => {
        if (listeners.length === 0) return;
        registration = {
          target: intake,
          server: undefined,
          listeners,
          ask: (link, granted) => link.serve(undefined, granted),
        };
        this.#registrations.add(registration);
      });
      if (registration) this.#sayServing(registration);
      else checkListening('nowhere');
      yield* intake.sockets();
    } finally {
      intake.leave();
      this.#release(claim);
      if (registration) await this.#withdraw(registration);
      this.#tellCapacity();
      this.#reference(-1);
    }
  }

  /**
   * Has a drain wait for the connections of a server that listens by itself. It goes on listening meanwhile: a session that
   * is open may need it. Does nothing for any other server.
   */
  watchStandalone(server: Server): void {
    const isStandalone = watchStandalone(server, {
      accepted: () => {
        if (this.#accepted++ === 0) this.#tellHolding();
        return (passedOn) => {
          this.#whenClosed(passedOn, () => {
            this.#noteStandaloneClosed();
          });
        };
      },
      closed: () => {
        this.#standalone.delete(server);
      },
    });
    if (!isStandalone) return;
    this.#standalone.add(server);
    prepareClosing(server);
    if (this.#isDraining) finishConnections(server);
  }

  /**
   * Tells the dispatcher that connections may come, to everything that listens. A server that stays open after its
   * 'listening' implies it. A second call does nothing.
   */
  ready(): void {
    if (this.#isReady) return;
    this.#isReady = true;
    if (this.#state.is === 'linked') this.#state.link.sayReady();
  }

  /** Takes nothing new, closes its servers, and resolves when the last connection is closed. */
  async drain(): Promise<void> {
    if (!this.#isDraining && this.#state.is === 'linked') this.#state.link.sayDraining();
    this.#beginDraining();
    if (!this.#isIdle) await new Promise<void>((resolve) => this.once('drained', resolve));
  }

  /** Tells whoever started this process why it is about to end. */
  sayLastWords(text: string): void {
    if (this.#state.is === 'linked') this.#state.link.sayLastWords(text);
  }

  /** Leaves the dispatcher. What was adopted stays open. A second call does nothing. */
  async close(): Promise<void> {
    const state = this.#state;
    this.#state = { is: 'closed' };
    this.#closing.abort();
    this.#custody.close();
    this.#reconnecting?.close();
    this.#endIntake();
    if (state.is !== 'linked') return;
    state.link.close();
    await state.link.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @throws {PassfdError} as `join`; `ERR_CLOSED` when this worker was closed meanwhile */
  async #link(returns: Returning | undefined): Promise<Link> {
    const closedBefore = this.#closed;
    const capacity = this.#presentCapacity;
    const { link, welcome } = await this.#openLink(
      {
        targetOf: (listener) => this.#targetOf(listener),
        isDraining: () => this.#isDraining,
        drain: () => {
          this.#beginDraining();
        },
        opened: (count) => {
          this.#open += count;
        },
        closed: (passedOn) => {
          this.#whenClosed(passedOn, () => {
            this.#noteClosed();
          });
        },
        entrusted: (listener, kept) => {
          this.#custody.keep(listener, kept);
        },
        relieved: (listeners, stale) => {
          this.#custody.release(listeners);
          if (stale) this.#custody.releaseStale();
        },
        ticketsChanged: (listener, secret) => {
          this.#changeTickets(listener, secret);
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
    this.#toldCapacity = capacity;
    this.#tellCapacity();
    this.#tellHolding();
    if (this.#isDraining) link.sayDraining();
    // What was closed since the hello had told how many are open.
    for (let count = this.#closed - closedBefore; count > 0 && returns; count--) link.noteClosed();
    link.setReferenced(this.#references > 0);
    return link;
  }

  /** Of a connection that is closed here. */
  #whenClosed(passedOn: SocketIdentity | undefined, note: () => void): void {
    if (passedOn) this.#passedOn.watch(passedOn, note);
    else note();
  }

  #noteStandaloneClosed(): void {
    if (--this.#accepted > 0) return;
    this.#tellHolding();
    if (this.#isIdle && this.#isDraining) this.#announce('drained');
  }

  #tellHolding(): void {
    if (this.#state.is === 'linked') this.#state.link.setHolding(this.#accepted > 0);
  }

  #noteClosed(): void {
    this.#open--;
    this.#closed++;
    // First, or what is closed would make room that nobody has asked for.
    this.#tellCapacity();
    if (this.#state.is === 'linked') this.#state.link.noteClosed();
    if (this.#isIdle && this.#isDraining) this.#announce('drained');
  }

  #watch(link: Link): void {
    link.ended
      .then((end) => this.#onEnded(link, end))
      .catch((error: unknown) => {
        process.nextTick(() => this.emit('error', error as Error));
      });
  }

  async #onEnded(link: Link, end: End): Promise<void> {
    if (this.#state.is !== 'linked' || this.#state.link !== link) return;
    this.#state = { is: 'reconnecting' };
    const reason = end.is === 'farewell' ? end.error : undefined;
    process.nextTick(() => this.emit('disconnected', reason));
    // One that was cut off would be cut off again.
    if (!this.#reconnecting || end.is === 'farewell' || this.#isDraining) {
      this.#giveUp();
      return;
    }
    this.#reconnected = this.#reconnect(this.#reconnecting);
    await this.#reconnected;
  }

  async #reconnect({ timeoutMs, untilChanged }: Reconnecting): Promise<void> {
    const giveUpAt = performance.now() + timeoutMs;
    let pauseMs = FIRST_RECONNECT_MS;
    while (this.#isLooking() && performance.now() < giveUpAt) {
      if (await this.#pause(Math.min(pauseMs, giveUpAt - performance.now()), untilChanged)) {
        pauseMs = FIRST_RECONNECT_MS;
      } else {
        pauseMs = Math.min(pauseMs * 2, LAST_RECONNECT_MS);
      }
      if (!this.#isLooking()) break;
      const link = await this.#linkAgain();
      if (!link) continue;
      this.#lastRefusal = undefined;
      this.#announce('reconnected');
      this.#watch(link);
      return;
    }
    if (this.#isReconnecting) this.#giveUp();
  }

  get #isReconnecting(): boolean {
    return this.#state.is === 'reconnecting';
  }

  /** One that drains needs no other dispatcher. */
  #isLooking(): boolean {
    return this.#isReconnecting && !this.#isDraining;
  }

  /** @returns nothing when it did not work, and may work later */
  async #linkAgain(): Promise<Link | undefined> {
    try {
      this.#custody.expectAnew();
      const child = this.#service === undefined ? undefined : { slot: this.#slot, service: this.#service };
      const link = await this.#link({ id: this.id, open: this.#open, custody: this.#custody.kept, child });
      await this.#registerAgain(link);
      return link;
    } catch (error) {
      this.#unlink();
      // One that refuses this worker today, for one since its key is not set yet, may take it tomorrow.
      if (error instanceof PassfdError) {
        this.#warnOfRefusal(error);
        return undefined;
      }
      if (this.#isReconnecting) this.#giveUp();
      throw error;
    }
  }

  /** Each reason once: it is tried again and again. */
  #warnOfRefusal({ code, message }: PassfdError): void {
    if (nobodyThere.has(code) || message === this.#lastRefusal) return;
    this.#lastRefusal = message;
    process.emitWarning(`This worker cannot go back to a dispatcher yet: ${message}`, 'PassfdWarning');
  }

  /** @returns whether it was cut short by a change */
  async #pause(pauseMs: number, untilChanged: Reconnecting['untilChanged']): Promise<boolean> {
    const over = new AbortController();
    const signal = AbortSignal.any([this.#closing.signal, over.signal]);
    const pause = new Promise<boolean>((resolve) => {
      this.#pauseTimer = setTimeout(resolve, pauseMs, false);
      if (this.#references === 0) this.#pauseTimer.unref();
      signal.addEventListener('abort', () => {
        resolve(false);
      });
    });
    const isChanged = await Promise.race([pause, untilChanged(signal).then(() => true)]);
    clearTimeout(this.#pauseTimer);
    over.abort();
    return isChanged;
  }

  #giveUp(): void {
    this.#beginDraining();
    this.#state = { is: 'closed' };
    this.#custody.close();
    this.#reconnecting?.close();
    this.#announce('abandoned');
  }

  /** Of a dispatcher that went away again before everything was asked of it. */
  #unlink(): void {
    if (this.#state.is !== 'linked') return;
    this.#state.link.close();
    this.#state = { is: 'reconnecting' };
  }

  async #registerAgain(link: Link): Promise<void> {
    // The ids are the new dispatcher's, and mean other listeners there.
    for (const registration of this.#registrations) registration.listeners = [];
    for (const registration of this.#registrations) {
      await registration.ask(link, (listeners, tickets) => {
        // Its server may be closed by now, and had nothing to give back then.
        if (!this.#registrations.has(registration)) {
          this.#unlisten(listeners).catch(() => undefined);
          return;
        }
        registration.listeners = listeners;
        if (registration.server && tickets) shareTickets(registration.server, tickets);
      });
    }
    if (this.#isReady && !this.#isDraining) link.sayReady();
  }

  #attach(
    server: Server,
    { wanted, claim }: { readonly wanted: WantedAddress | undefined; readonly claim: Claim | undefined },
    listen: ListenArguments,
    listeners: readonly Listening[],
    { address }: Listening,
    scope: AsyncResource,
  ): void {
    let isReferenced = true;
    this.#reference(1);
    const handle = new ServerHandle(server, address, scope, {
      closed: async () => {
        this.#servers.delete(server);
        stopSharingTickets(server);
        this.#release(claim);
        // Not to end before the server has told that it is closed.
        this.#reference(1);
        if (isReferenced) this.#reference(-1);
        isReferenced = false;
        await this.#withdraw(registration);
        this.#reference(-1);
      },
      referenced: (on) => {
        if (on !== isReferenced) this.#reference(on ? 1 : -1);
        isReferenced = on;
      },
    });
    const registration: Registration = {
      target: handle,
      server,
      listeners,
      ask: (link, granted) =>
        ask(link, { wanted: wanted && withPort(wanted, address), backlog: listen.backlog, server }, granted),
    };
    this.#registrations.add(registration);
    this.#servers.add(server);
    prepareClosing(server);
    handle.attach(listen);
    // One that only probes whether a port is free is closed in its 'listening', which comes before this.
    setImmediate(() => {
      this.#sayServing(registration);
    });
    if (!this.#isDraining) return;
    // Right after its 'listening', which would not come otherwise.
    process.nextTick(() => {
      closeGracefully(server);
    });
  }

  /** Tells that connections may come, to a server that is still open. */
  #sayServing(registration: Registration): void {
    if (this.#isDraining || !this.#registrations.has(registration)) return;
    this.#isReady = true;
    if (this.#state.is !== 'linked') return;
    this.#state.link.sayReady(registration.listeners.map(({ id }) => id));
  }

  /** @throws {PassfdError} `ERR_ADDRESS_IN_USE` when somebody else has the dispatcher's own addresses */
  #take(by: Server | Intake): Claim {
    if (this.#claim && this.#claim.by !== by) checkListening('taken');
    const claim = { by };
    this.#claim = claim;
    return claim;
  }

  #release(claim: Claim | undefined): void {
    if (this.#claim === claim) this.#claim = undefined;
  }

  /** The capacity, or what is open and what the loop over the connections waits for, if that is less. */
  get #presentCapacity(): number | null {
    if (!(this.#claim?.by instanceof Intake)) return this.#capacity;
    return Math.min(this.#open + this.#claim.by.room, this.#capacity ?? Number.POSITIVE_INFINITY);
  }

  #tellCapacity(): void {
    const capacity = this.#presentCapacity;
    if (this.#state.is !== 'linked' || capacity === this.#toldCapacity) return;
    this.#toldCapacity = capacity;
    this.#state.link.sayCapacity(capacity);
  }

  #endIntake(): void {
    if (this.#claim?.by instanceof Intake) this.#claim.by.end();
  }

  #targetOf(listener: number): Target | undefined {
    for (const { listeners, target } of this.#registrations) {
      if (listeners.some(({ id }) => id === listener)) return target;
    }
    return undefined;
  }

  /** A server that listens at several addresses shares the ticket keys of the first, since it has one set. */
  #changeTickets(listener: number, secret: TicketSecret): void {
    for (const { server, listeners } of this.#registrations) {
      if (server && listeners[0]?.id === listener) shareTickets(server, secret);
    }
  }

  async #ask(wish: Wish, granted: Granted): Promise<void> {
    for (;;) {
      while (this.#isReconnecting) await this.#reconnected;
      if (this.#state.is !== 'linked') throw this.#endError();
      const { link } = this.#state;
      try {
        await ask(link, wish, granted);
        return;
      } catch (error) {
        if (!(error instanceof PassfdError && error.code === 'ERR_PEER_GONE')) throw error;
        // It died before it answered: the next one is asked, if one comes.
        await link.ended;
      }
    }
  }

  /** Why nothing can be asked of a dispatcher any more. */
  #endError(): PassfdError {
    return this.#closing.signal.aborted
      ? new PassfdError('ERR_CLOSED', 'This worker was closed')
      : new PassfdError('ERR_PEER_GONE', 'This worker has no dispatcher any more');
  }

  /** Resolves when the dispatcher knows it; never rejects. */
  async #withdraw(registration: Registration): Promise<void> {
    this.#registrations.delete(registration);
    await this.#unlisten(registration.listeners);
  }

  /** @returns whether the service still listens at one of them */
  async #unlisten(listeners: readonly Listening[]): Promise<boolean> {
    if (this.#state.is !== 'linked') return false;
    return this.#state.link.unlisten(listeners.map(({ id }) => id));
  }

  #beginDraining(): void {
    if (this.#isDraining) return;
    this.#isDraining = true;
    this.#endIntake();
    for (const server of this.#servers) closeGracefully(server);
    for (const server of this.#standalone) finishConnections(server);
    this.#passedOn.hurry();
    tellDrain();
    this.#announce('drain');
    if (this.#isIdle) this.#announce('drained');
  }

  /** Each on its own, so that an exception of the app's is an ordinary one, and stops nothing here. */
  #announce(event: 'drain' | 'drained' | 'reconnected' | 'abandoned'): void {
    process.nextTick(() => this.emit(event));
  }

  #reference(change: 1 | -1): void {
    this.#references += change;
    const isNeeded = this.#references > 0;
    if (this.#state.is === 'linked') this.#state.link.setReferenced(isNeeded);
    if (isNeeded) this.#pauseTimer?.ref();
    else this.#pauseTimer?.unref();
  }
}

/** @throws {TypeError} */
export function checkCapacity(capacity: number | null): void {
  if (capacity === null || (Number.isSafeInteger(capacity) && capacity >= 0)) return;
  throw new TypeError(`capacity is an integer from 0, or null, not ${String(capacity)}`);
}

const noArguments: ListenArguments = {
  address: null,
  port: null,
  addressType: null,
  backlog: undefined,
  fd: undefined,
  flags: undefined,
};

/**
 * Has a server of a worker that drains listen where other workers take the connections: it gets none. Nobody could listen
 * there by itself, and the app would get an error that it never has to expect.
 */
function attachIdle(server: Server, address: Address, listen: ListenArguments, scope: AsyncResource): void {
  const handle = new ServerHandle(server, address, scope, {
    closed: () => Promise.resolve(),
    referenced: () => undefined,
  });
  handle.attach(listen);
}

function ask(link: Link, { wanted, backlog, server }: Wish, granted: Granted): Promise<void> {
  const tickets: TicketRequest = server && ticketSecretOf(server);
  if (!wanted) return link.serve(tickets, granted);
  return link.listen({ address: wanted, backlog: backlog ?? 0 }, tickets, granted);
}

/** For a dispatcher that came after the one that had picked the port: the same port again. */
function withPort(wanted: WantedAddress, address: Address): WantedAddress {
  return 'port' in wanted && 'port' in address ? { ...wanted, port: address.port } : wanted;
}

/** @throws {PassfdError} unless it listens */
function checkListening(outcome: Outcome): void {
  switch (outcome) {
    case 'listening':
    case 'idle':
      return;
    case 'closed':
      throw new PassfdError('ERR_CLOSED', 'The server was closed before it listened');
    case 'finishing':
      throw new PassfdError('ERR_CLOSED', 'This worker drains: it takes nothing new');
    case 'taken':
      throw new PassfdError('ERR_ADDRESS_IN_USE', 'Another server or loop of this process is there', {
        cause: { code: 'EADDRINUSE' },
      });
    case 'nowhere':
      throw new PassfdError(
        'ERR_NO_ADDRESS',
        'The dispatcher has no address of its own: start it with --listen',
      );
  }
}
