// Link: a worker's end of one channel to a dispatcher: the hello, requests with their answers, and the farewell.
import { PassfdError, type Descriptor, type StreamSocket } from '../fd/index.js';
import {
  Channel,
  decodeToWorker,
  encodeFrame,
  encodeHello,
  encodeJson,
  isTrusted,
  MAX_LAST_WORDS,
  printable,
  PROTOCOL_VERSION,
  shortened,
  TicketSecret,
  traceStep,
  type FormerChild,
  type Listening,
  type TakeGroup,
  type TicketSecretMessage,
  type ToWorker,
  type WantedAddress,
} from '../handoff/index.js';
import { Adoption, type AdoptionHost } from './adoption.js';
import type { Kept } from './custody.js';
import { ClosedReports, HoldingReports } from './load-reports.js';

export interface LinkOptions {
  readonly window: number;
  readonly capacity: number | null;
  readonly handshakeTimeoutMs: number;
  /** Set when the worker's dispatcher has died, and the worker comes to the next one. */
  readonly returns?: Returning | undefined;
}

/** What a worker brings to the next dispatcher. */
export interface Returning {
  /** The id that the worker had. */
  readonly id: number;
  /** The number of connections that it has open. */
  readonly open: number;
  /** The listening sockets that it has kept. They are lent. */
  readonly custody: readonly Kept[];
  /** Set when a supervisor started the worker. */
  readonly child: FormerChild | undefined;
}

/** What a link needs of its worker, and what it reports to the worker. */
export interface LinkHost extends AdoptionHost {
  /** The dispatcher sends nothing more, and asks the worker to finish what is open. */
  drainRequested(): void;
  /** A listening socket came, to be kept. The host owns it. */
  custodyGiven(listener: number, kept: Kept): void;
  /** The sockets of these listeners are not needed any more. @param stale nor are those that this dispatcher has not given */
  custodyReleased(listeners: readonly number[], stale: boolean): void;
  /** A socket to be kept, with this key, did not arrive. */
  custodyLost(listener: number, key: string): void;
  /** A page for the counts came, and the host owns its descriptor; undefined when it did not arrive. */
  boardGiven(descriptor: Descriptor | undefined): void;
  /** Whether the worker accepts connections of a listener by itself from now on. @param place of the counts on the board */
  watchAsked(listener: number, on: boolean, place: number): void;
  /** The dispatcher has died. Its channel has not ended yet. */
  orphaned(): void;
  /** The workers of a listener share new ticket keys from now on. */
  ticketsChanged(listener: number, secret: TicketSecret): void;
}

export type Welcome = Extract<ToWorker, { type: 'welcome' }>;

/** How a channel ended: the dispatcher is gone, or it lives and has disconnected this worker. */
export type End = { readonly is: 'gone' } | { readonly is: 'farewell'; readonly error: PassfdError };

/** Receives the answer at once: connections may follow it in the same read. */
export type Granted = (listeners: readonly Listening[], tickets: TicketSecret | undefined) => void;

/** For a server that shares its ticket keys: the secret that it has, or null. For any other: undefined. */
export type TicketRequest = TicketSecret | null | undefined;

interface Request {
  resolve: Granted;
  reject(error: Error): void;
}

/** A board is a memfd, which only Linux has. */
const canAcceptDirectly = process.platform === 'linux';

export class Link {
  readonly #channel: Channel;
  readonly #host: LinkHost;
  readonly #adoption: Adoption;
  readonly #closedReports: ClosedReports;
  readonly #holdingReports: HoldingReports;
  readonly #requests = new Map<number, Request>();
  readonly #unlistening = new Map<number, (isOpen: boolean) => void>();
  #nextRequest = 1;
  #isDraining = false;
  #isDirect = false;
  #farewell: PassfdError | undefined;
  /** Whether the channel has ended, and no answer comes any more. */
  #isOver = false;
  #welcomed: ((welcome: Welcome) => void) | undefined;
  /** Settles when the channel has ended and every connection that came on it has an owner. Never rejects. */
  readonly ended: Promise<End>;

  private constructor(socket: StreamSocket, capacity: number | null, host: LinkHost) {
    this.#channel = new Channel(socket);
    this.#host = host;
    this.#closedReports = new ClosedReports(capacity !== null, (frame) => {
      if (socket.closed) return;
      this.#post(frame);
      traceStep('closed-sent');
    });
    this.#holdingReports = new HoldingReports((frame) => {
      this.#post(frame);
    });
    this.#adoption = new Adoption(this.#channel, host, this.#closedReports);
    this.ended = this.#read();
  }

  /**
   * Sends the hello on a channel, and waits for the welcome. Takes over the socket: when it throws, the socket is closed.
   * @throws {PassfdError} `ERR_DISPATCHER` with the dispatcher's reason, `ERR_HANDSHAKE_TIMEOUT`, `ERR_PEER_GONE`
   */
  static async open(
    socket: StreamSocket,
    options: LinkOptions,
    host: LinkHost,
  ): Promise<{ readonly link: Link; readonly welcome: Welcome }> {
    const { window, capacity, handshakeTimeoutMs, returns } = options;
    const link = new Link(socket, capacity, host);
    let timer: NodeJS.Timeout | undefined;
    try {
      const welcome = new Promise<Welcome>((resolve, reject) => {
        link.#welcomed = resolve;
        timer = setTimeout(() => {
          reject(
            new PassfdError(
              'ERR_HANDSHAKE_TIMEOUT',
              `The dispatcher did not welcome this worker within ${handshakeTimeoutMs} ms`,
            ),
          );
        }, handshakeTimeoutMs);
        link.ended.then((end) => {
          reject(end.is === 'farewell' ? end.error : goneError());
        }, reject);
      });
      const hello = {
        passfd: PROTOCOL_VERSION,
        role: 'worker',
        pid: process.pid,
        window,
        capacity,
        custody: true,
        again: true,
        ...(canAcceptDirectly && { direct: true }),
        ...(returns && { returns: { ...returns, custody: returns.custody.length } }),
      } as const;
      link.#post(encodeFrame(encodeHello(hello)));
      traceStep('hello-sent');
      const welcomed = await welcome;
      if (welcomed.holding) link.#holdingReports.enable();
      for (const { label, descriptor } of returns?.custody ?? []) {
        await link.#channel.post(encodeJson({ type: 'custody', ...label }), [descriptor]);
      }
      return { link, welcome: welcomed };
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Whether the dispatcher says where this worker accepts connections by itself. */
  get isDirect(): boolean {
    return this.#isDirect;
  }

  /** Whether a drain has begun. When the dispatcher begins it, the host hears of it one tick later than this link. */
  get isDraining(): boolean {
    return this.#isDraining;
  }

  /** Whether waiting for the dispatcher keeps the process alive. */
  setReferenced(on: boolean): void {
    if (on) this.#channel.socket.ref();
    else this.#channel.socket.unref();
  }

  /** Asks for the connections of the dispatcher's own addresses. Throws as `listen`. */
  serve(tickets: TicketRequest, granted: Granted): Promise<void> {
    return this.#request(granted, (request) =>
      encodeJson({ type: 'serve', request, tickets: this.#encodeTickets(tickets) }),
    );
  }

  /**
   * Asks for the connections of an address.
   * @throws {PassfdError} `ERR_LISTEN`, whose `cause` has the code of the system error; `ERR_PEER_GONE` or the farewell
   * when the channel ends
   */
  listen(
    { address, backlog }: { readonly address: WantedAddress; readonly backlog: number },
    tickets: TicketRequest,
    granted: Granted,
  ): Promise<void> {
    return this.#request(granted, (request) =>
      encodeJson({ type: 'listen', request, address, backlog, tickets: this.#encodeTickets(tickets) }),
    );
  }

  /**
   * Asks for no more connections of these listeners. Resolves when their address is free, when other workers still serve
   * it, or when the dispatcher is gone.
   * @returns whether the service still listens there
   */
  unlisten(listeners: readonly number[]): Promise<boolean> {
    if (this.#isOver) return Promise.resolve(false);
    const request = this.#nextRequest++;
    const answer = new Promise<boolean>((resolve) => {
      this.#unlistening.set(request, resolve);
    });
    this.#post(encodeJson({ type: 'unlisten', request, listeners: [...listeners] }));
    traceStep('unlisten-sent');
    return answer;
  }

  /** @param listeners those whose servers have stayed open after their 'listening'. Default: everything asked for so far */
  sayReady(listeners?: readonly number[]): void {
    this.#post(encodeJson({ type: 'ready', ...(listeners && { listeners: [...listeners] }) }));
    traceStep('ready-sent');
  }

  sayDraining(): void {
    this.#post(encodeJson({ type: 'draining' }));
    this.#beginDraining();
  }

  sayCapacity(capacity: number | null): void {
    this.#post(encodeJson({ type: 'capacity', capacity }));
    this.#closedReports.limit(capacity !== null);
  }

  /** This worker cannot accept connections of a listener by itself. */
  sayUnwatched(listener: number): void {
    this.#post(encodeJson({ type: 'unwatched', listener }));
  }

  /** Sends at once why this process is about to end, for the process that started it. The text is cut to its maximum. */
  sayLastWords(text: string): void {
    this.#post(encodeJson({ type: 'last-words', text: text.slice(0, MAX_LAST_WORDS) }));
  }

  /** Whether connections are open here that came from no dispatcher. */
  setHolding(on: boolean): void {
    this.#holdingReports.set(on);
  }

  /** One more connection is closed. */
  noteClosed(): void {
    this.#closedReports.note();
  }

  /** Ends the channel. Adopted connections stay open. */
  close(): void {
    this.#channel.socket.destroy();
  }

  #post(frame: Buffer): void {
    // A failure means that the dispatcher is gone. The end of the channel reports that.
    this.#channel.post(frame).catch(() => undefined);
  }

  #beginDraining(): void {
    this.#isDraining = true;
    this.#closedReports.drain();
  }

  /** A dispatcher of another user must not get a secret that came from an earlier dispatcher. */
  #encodeTickets(tickets: TicketRequest): TicketSecretMessage | null | undefined {
    if (!tickets) return tickets;
    return isTrusted(this.#channel.socket.peer) ? tickets.encode(performance.now()) : null;
  }

  #request(granted: Granted, encode: (request: number) => Buffer): Promise<void> {
    if (this.#isOver) return Promise.reject(this.#farewell ?? goneError());
    const request = this.#nextRequest++;
    const answer = new Promise<void>((resolve, reject) => {
      this.#requests.set(request, {
        resolve: (listeners, tickets) => {
          granted(listeners, tickets);
          resolve();
        },
        reject,
      });
    });
    this.#post(encode(request));
    traceStep('listen-sent');
    return answer;
  }

  async #read(): Promise<End> {
    try {
      await this.#channel.read((payload, take) => {
        this.#on(decodeToWorker(payload), take);
      });
    } catch (error) {
      // Closed here, or the dispatcher broke the protocol. It lives, and keeps what this worker has not adopted.
      this.#farewell ??=
        error instanceof PassfdError ? error : new PassfdError('ERR_PROTOCOL', String(error));
    }
    this.#adoption.flush();
    this.#channel.socket.destroy();
    this.#isOver = true;
    this.#holdingReports.close();
    for (const request of this.#requests.values()) request.reject(this.#farewell ?? goneError());
    this.#requests.clear();
    for (const resolve of this.#unlistening.values()) resolve(false);
    this.#unlistening.clear();
    await this.#adoption.end(this.#farewell !== undefined);
    return this.#farewell ? { is: 'farewell', error: this.#farewell } : { is: 'gone' };
  }

  #on(message: ToWorker, take: TakeGroup): void {
    switch (message.type) {
      case 'handoff':
        this.#adoption.onHandoff(message.listener, message.count, take);
        break;
      case 'handoff-again':
        this.#adoption.onHandoffAgain(message.position, message.listener, message.count, take);
        break;
      case 'orphaned':
        this.#adoption.onOrphaned();
        this.#host.orphaned();
        break;
      case 'custody':
        this.#onCustody(message, take);
        break;
      case 'release':
        this.#host.custodyReleased(message.listeners, message.stale ?? false);
        break;
      case 'board':
        this.#host.boardGiven(takeOne(take));
        traceStep('board-received');
        break;
      case 'watch':
        this.#host.watchAsked(message.listener, message.on, message.place);
        break;
      case 'welcome':
        traceStep('welcomed');
        this.#isDirect = message.direct ?? false;
        this.#welcomed?.(message);
        break;
      case 'listening':
        traceStep('listening');
        this.#requests.get(message.request)?.resolve(message.listeners, decodeTickets(message.tickets));
        this.#requests.delete(message.request);
        break;
      case 'unlistened':
        traceStep('unlistened');
        this.#unlistening.get(message.request)?.(message.open ?? false);
        this.#unlistening.delete(message.request);
        break;
      case 'listen-failed': {
        const error = new PassfdError('ERR_LISTEN', peerText(message.reason), {
          cause: { code: message.code },
        });
        this.#requests.get(message.request)?.reject(error);
        this.#requests.delete(message.request);
        break;
      }
      case 'tickets': {
        const secret = decodeTickets(message.tickets);
        if (secret) this.#host.ticketsChanged(message.listener, secret);
        break;
      }
      case 'drain':
        traceStep('drain-received');
        this.#beginDraining();
        // This runs listeners of the app. An exception there must not end the channel.
        process.nextTick(() => {
          this.#host.drainRequested();
        });
        break;
      case 'farewell':
        this.#farewell = new PassfdError(
          'ERR_DISPATCHER',
          `The dispatcher refused this worker: ${peerText(message.reason)}`,
        );
    }
  }

  #onCustody(
    { listener, key, file, backlog }: Extract<ToWorker, { type: 'custody' }>,
    take: TakeGroup,
  ): void {
    const descriptor = takeOne(take);
    // Other workers keep the same socket.
    if (descriptor) this.#host.custodyGiven(listener, { label: { key, file, backlog }, descriptor });
    else this.#host.custodyLost(listener, key);
  }
}

/** The descriptor that came with a message. It is lost when this process is at its descriptor limit. */
function takeOne(take: TakeGroup): Descriptor | undefined {
  const group = take(1);
  return group === 'lost' ? undefined : group[0];
}

function decodeTickets(message: TicketSecretMessage | undefined): TicketSecret | undefined {
  return message && TicketSecret.decode(message, performance.now());
}

function goneError(): PassfdError {
  return new PassfdError('ERR_PEER_GONE', 'The dispatcher closed the channel, or died');
}

/** Text of the dispatcher for an error message, which an app may print. */
function peerText(reason: string): string {
  return printable(shortened(reason));
}
