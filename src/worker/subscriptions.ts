// Subscriptions: which server, or which loop, gets the connections of which listener: with this dispatcher and each later one.
import { AsyncResource } from 'node:async_hooks';
import type { Server, Socket } from 'node:net';

import { PassfdError, type Address } from '../fd/index.js';
import type { Listening, TicketSecret, WantedAddress } from '../handoff/index.js';
import { Intake } from './intake.js';
import type { Granted, Link, TicketRequest } from './link.js';
import { privateServer } from './node-handles.js';
import { closeGracefully, prepareClosing } from './server-closing.js';
import { ServerHandle, type ListenArguments } from './server-handle.js';
import type { Target } from './target.js';
import { shareTickets, stopSharingTickets, ticketSecretOf } from './ticket-keys.js';

/** What subscriptions need of the worker. */
export interface SubscriptionsHost {
  /** The channel to the present dispatcher; undefined while there is none. */
  link(): Link | undefined;
  /**
   * Resolves to the channel, as soon as a dispatcher is there.
   * @throws {PassfdError} `ERR_CLOSED` when the worker was closed, `ERR_PEER_GONE` when no dispatcher comes any more
   */
  untilLinked(): Promise<Link>;
  /** @throws {PassfdError} as `untilLinked` */
  checkOpen(): void;
  isDraining(): boolean;
  /** Whether this process has served, and takes nothing new. */
  isFinishing(): boolean;
  /** Counts what keeps the process alive. */
  reference(change: 1 | -1): void;
  /** The loop over the connections takes more, or fewer, than before. */
  roomChanged(): void;
  /** Connections may come from now on. */
  readied(): void;
  /** A server or loop has stayed open, and takes the connections of these listeners. */
  serves(target: Target, listeners: readonly number[]): void;
  /** The next dispatcher has answered for this server or loop. */
  answered(target: Target, link: Link): void;
  /** A server was closed, or a loop left. */
  left(target: Target): void;
}

/** One server, or one loop, with the listeners that it gets connections of. */
interface Subscription {
  readonly target: Target;
  /** Undefined for a loop. */
  readonly server: Server | undefined;
  /** Asks a dispatcher for the connections: the first dispatcher, and each later one. */
  ask(link: Link, granted: Granted): Promise<void>;
  listeners: readonly Listening[];
}

/** What a dispatcher is asked for. */
interface Wish {
  /** Default: the dispatcher's own addresses. */
  readonly wanted: WantedAddress | undefined;
  readonly backlog: number | undefined;
  /** Undefined for a loop. */
  readonly server: Server | undefined;
}

/** The result of a request to listen. */
type Outcome = 'listening' | 'idle' | 'closed' | 'finishing' | 'taken' | 'nowhere';

/** The one server or loop that has, or has asked for, the connections of the dispatcher's own addresses. */
interface Claim {
  readonly by: Server | Intake;
}

export class Subscriptions {
  readonly #host: SubscriptionsHost;
  readonly #subscriptions = new Set<Subscription>();
  readonly #servers = new Set<Server>();
  #claim: Claim | undefined;
  #isReady = false;

  constructor(host: SubscriptionsHost) {
    this.#host = host;
  }

  /** Whether this worker has reported that connections may come. */
  get isReady(): boolean {
    return this.#isReady;
  }

  /** Reports that connections may come, for everything that listens. A second call does nothing. */
  ready(): void {
    if (this.#isReady) return;
    this.#isReady = true;
    this.#host.readied();
    this.#host.link()?.sayReady();
  }

  /** Whether a server may have the connections of the dispatcher's own addresses: nothing else in this process has them. */
  mayServe(server: Server): boolean {
    return !this.#claim || this.#claim.by === server;
  }

  /** How many connections a loop waits for; undefined when a server takes them. */
  get loopRoom(): number | undefined {
    return this.#claim?.by instanceof Intake ? this.#claim.by.room : undefined;
  }

  /** The server or loop that takes the connections of a listener. */
  targetOf(listener: number): Target | undefined {
    for (const { listeners, target } of this.#subscriptions) {
      if (listeners.some(({ id }) => id === listener)) return target;
    }
    return undefined;
  }

  /** Every server and loop, with the ids of its listeners. */
  *served(): Generator<readonly [target: Target, listeners: readonly number[]], void, undefined> {
    for (const { target, listeners } of this.#subscriptions) yield [target, listeners.map(({ id }) => id)];
  }

  /**
   * Has a server listen through the dispatcher.
   * @param wanted the address. Default: the dispatcher's own addresses
   * @param listen the arguments of the app's own `listen`. Default: none
   * @throws {PassfdError} `ERR_CLOSED` when the server was closed, or listened elsewhere, before the answer came;
   * `ERR_ADDRESS_IN_USE`; `ERR_NO_ADDRESS`; `ERR_LISTEN`, whose `cause` has the code of the system error; and as
   * `untilLinked` of the host
   */
  async listen(server: Server, wanted?: WantedAddress, listen = noArguments): Promise<void> {
    const { _listeningId: call } = privateServer(server);
    const scope = new AsyncResource('PassfdServer');
    const claim = wanted ? undefined : this.#take(server);
    let outcome = 'nowhere' as Outcome;
    let refused: { readonly address: Address; readonly isOpen: Promise<boolean> } | undefined;
    this.#host.reference(1);
    try {
      await this.#ask({ wanted, backlog: listen.backlog, server }, (listeners, tickets) => {
        const [first] = listeners;
        if (!first) return;
        if (privateServer(server)._listeningId !== call) {
          outcome = 'closed';
          this.#unlisten(listeners).catch(() => undefined);
        } else if (this.#host.isFinishing()) {
          outcome = 'finishing';
          refused = { address: first.address, isOpen: this.#unlisten(listeners) };
        } else if (this.targetOf(first.id)) {
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
      this.#host.reference(-1);
    }
    checkListening(outcome);
  }

  /** The connections of the dispatcher's own addresses, one by one. See `Worker.connections`. */
  loop(): AsyncGenerator<Socket, void, undefined> {
    const intake = new Intake(() => {
      this.#host.roomChanged();
    });
    const loop = this.#socketsOf(intake);
    // A generator runs neither of these while a `next` waits, which may be for ever. So the intake ends first.
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

  async *#socketsOf(intake: Intake): AsyncGenerator<Socket, void, undefined> {
    if (this.#host.isDraining()) return;
    this.#host.checkOpen();
    const claim = this.#take(intake);
    this.#host.roomChanged();
    this.#host.reference(1);
    let subscription: Subscription | undefined;
    try {
      await this.#ask({ wanted: undefined, backlog: undefined, server: undefined }, (listeners) => {
        if (listeners.length === 0) return;
        subscription = {
          target: intake,
          server: undefined,
          listeners,
          ask: (link, granted) => link.serve(undefined, granted),
        };
        this.#subscriptions.add(subscription);
      });
      if (subscription) this.#sayServing(subscription);
      else checkListening('nowhere');
      yield* intake.sockets();
    } finally {
      intake.leave();
      this.#release(claim);
      if (subscription) await this.#withdraw(subscription);
      this.#host.roomChanged();
      this.#host.reference(-1);
    }
  }

  /** The loop over the connections gets no more of them. */
  endLoop(): void {
    if (this.#claim?.by instanceof Intake) this.#claim.by.end();
  }

  /** Takes nothing new, and finishes what is open. */
  drain(): void {
    this.endLoop();
    for (const server of this.#servers) closeGracefully(server);
  }

  /** An id belongs to one dispatcher. The next dispatcher gives it to another listener. */
  forgetListeners(): void {
    for (const subscription of this.#subscriptions) subscription.listeners = [];
  }

  /** Asks the next dispatcher for everything. @throws as `Link.listen` */
  async askAgain(link: Link): Promise<void> {
    for (const subscription of this.#subscriptions) {
      await subscription.ask(link, (listeners, tickets) => {
        // Its server was closed before the answer came, and had no listeners to give back then.
        if (!this.#subscriptions.has(subscription)) {
          this.#unlisten(listeners).catch(() => undefined);
          return;
        }
        subscription.listeners = listeners;
        this.#host.answered(subscription.target, link);
        if (subscription.server && tickets) shareTickets(subscription.server, tickets);
      });
    }
    if (this.#isReady && !this.#host.isDraining()) link.sayReady();
  }

  /** A server has one set of ticket keys. When it listens at several addresses, they are those of the first. */
  changeTickets(listener: number, secret: TicketSecret): void {
    for (const { server, listeners } of this.#subscriptions) {
      if (server && listeners[0]?.id === listener) shareTickets(server, secret);
    }
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
    this.#host.reference(1);
    const handle = new ServerHandle(server, address, scope, {
      closed: async () => {
        this.#servers.delete(server);
        stopSharingTickets(server);
        this.#release(claim);
        // Keeps the process alive until the server has emitted 'close'.
        this.#host.reference(1);
        if (isReferenced) this.#host.reference(-1);
        isReferenced = false;
        await this.#withdraw(subscription);
        this.#host.reference(-1);
      },
      referenced: (on) => {
        if (on !== isReferenced) this.#host.reference(on ? 1 : -1);
        isReferenced = on;
      },
    });
    const subscription: Subscription = {
      target: handle,
      server,
      listeners,
      ask: (link, granted) =>
        ask(link, { wanted: wanted && withPort(wanted, address), backlog: listen.backlog, server }, granted),
    };
    this.#subscriptions.add(subscription);
    this.#servers.add(server);
    prepareClosing(server);
    handle.attach(listen);
    // A server that only probes whether a port is free closes in its 'listening', which comes before this.
    setImmediate(() => {
      this.#sayServing(subscription);
    });
    if (!this.#host.isDraining()) return;
    // After its 'listening', which a closed server would not emit.
    process.nextTick(() => {
      closeGracefully(server);
    });
  }

  /** Reports that connections may come, when the server is still open. */
  #sayServing(subscription: Subscription): void {
    if (this.#host.isDraining() || !this.#subscriptions.has(subscription)) return;
    if (!this.#isReady) {
      this.#isReady = true;
      this.#host.readied();
    }
    const listeners = subscription.listeners.map(({ id }) => id);
    this.#host.link()?.sayReady(listeners);
    this.#host.serves(subscription.target, listeners);
  }

  /** @throws {PassfdError} `ERR_ADDRESS_IN_USE` when something else has the dispatcher's own addresses */
  #take(by: Server | Intake): Claim {
    if (this.#claim && this.#claim.by !== by) checkListening('taken');
    const claim = { by };
    this.#claim = claim;
    return claim;
  }

  #release(claim: Claim | undefined): void {
    if (this.#claim === claim) this.#claim = undefined;
  }

  async #ask(wish: Wish, granted: Granted): Promise<void> {
    for (;;) {
      // With a link, this asks in the same turn: before a `ready` that the app calls next.
      const link = this.#host.link() ?? (await this.#host.untilLinked());
      try {
        await ask(link, wish, granted);
        return;
      } catch (error) {
        if (!(error instanceof PassfdError && error.code === 'ERR_PEER_GONE')) throw error;
        // The dispatcher died before it answered. The next one is asked.
        await link.ended;
      }
    }
  }

  /** Resolves when the dispatcher has answered. Never rejects. */
  async #withdraw(subscription: Subscription): Promise<void> {
    this.#host.left(subscription.target);
    this.#subscriptions.delete(subscription);
    await this.#unlisten(subscription.listeners);
  }

  /** @returns whether the service still listens at one of these */
  async #unlisten(listeners: readonly Listening[]): Promise<boolean> {
    return this.#host.link()?.unlisten(listeners.map(({ id }) => id)) ?? false;
  }
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
 * Has a server listen where other workers take the connections, and gives it none: its worker drains. Without this the
 * app would get an EADDRINUSE that it need not expect, since no process can listen there by itself.
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

/** Asks a later dispatcher for the port that the first one chose. */
function withPort(wanted: WantedAddress, address: Address): WantedAddress {
  return 'port' in wanted && 'port' in address ? { ...wanted, port: address.port } : wanted;
}

/** @throws {PassfdError} unless the server or loop listens */
function checkListening(outcome: Outcome): void {
  switch (outcome) {
    case 'listening':
    case 'idle':
      return;
    case 'closed':
      throw new PassfdError('ERR_CLOSED', 'The server was closed before it listened');
    case 'finishing':
      throw new PassfdError('ERR_CLOSED', 'This worker drains, and takes nothing new');
    case 'taken':
      throw new PassfdError('ERR_ADDRESS_IN_USE', 'Another server or loop of this process has the address', {
        cause: { code: 'EADDRINUSE' },
      });
    case 'nowhere':
      throw new PassfdError(
        'ERR_NO_ADDRESS',
        'The dispatcher has no address of its own: start it with --listen',
      );
  }
}
