// Link: a worker's end of one channel to a dispatcher. Adopts connections, and never touches one before it has said so.
import { closeAll, PassfdError, type Descriptor, type StreamSocket } from '../fd/index.js';
import { type SocketIdentity } from '../fd/internal.js';
import {
  Channel,
  decodeToWorker,
  encodeAdopted,
  encodeClosed,
  encodeFrame,
  encodeHello,
  encodeJson,
  encodeRefused,
  isTrusted,
  MAX_LAST_WORDS,
  printable,
  PROTOCOL_VERSION,
  shortened,
  TicketSecret,
  traceStep,
  type DescriptorGroup,
  type FormerChild,
  type Listening,
  type RefusalReason,
  type TakeGroup,
  type TicketSecretMessage,
  type ToWorker,
  type WantedAddress,
} from '../handoff/index.js';
import type { Kept } from './custody.js';
import type { Target } from './target.js';

export interface LinkOptions {
  readonly window: number;
  readonly capacity: number | null;
  readonly handshakeTimeoutMs: number;
  /** Of a worker whose dispatcher has died. */
  readonly returns?: Returning | undefined;
}

/** What a worker brings to the next dispatcher. */
export interface Returning {
  /** Which one it was. */
  readonly id: number;
  /** Connections that it has open. */
  readonly open: number;
  /** They are lent. */
  readonly custody: readonly Kept[];
  /** Of one that a supervisor has started. */
  readonly child: FormerChild | undefined;
}

export interface LinkEvents {
  /** Who takes the connections of a listener. */
  targetOf(listener: number): Target | undefined;
  /** Whether nothing new is to be adopted. */
  isDraining(): boolean;
  /** The dispatcher sends nothing more, and asks to finish what is open. */
  drain(): void;
  /** So many more connections are adopted, or about to be: of each its `closed` is told. */
  opened(count: number): void;
  /**
   * One more of them is closed here: it is for the present channel to tell, whichever it came by.
   * @param passedOn what the kernel knows it by, where another process may have it open
   */
  closed(passedOn: SocketIdentity | undefined): void;
  /** A listening socket is to be kept. The receiver owns it. */
  entrusted(listener: number, kept: Kept): void;
  /** These need not be kept any more. @param stale nor those that came from a dispatcher before, and not from this one */
  relieved(listeners: readonly number[], stale: boolean): void;
  /** The workers of a listener share other ticket keys from here on. */
  ticketsChanged(listener: number, secret: TicketSecret): void;
}

export type Welcome = Extract<ToWorker, { type: 'welcome' }>;

/** How a channel ended: the dispatcher is gone, or it lives on and has cut this worker off. */
export type End = { readonly is: 'gone' } | { readonly is: 'farewell'; readonly error: PassfdError };

/** Connections that this worker has answered for, or is about to. */
interface Answered {
  readonly target: Target | undefined;
  readonly descriptors: Descriptor[];
  /** Whether the target was told to expect them. */
  readonly isExpected: boolean;
}

/**
 * How long the dispatcher may count a closed connection as an open one, where neither room nor a drain depends on it: to
 * wake it up for each would cost more than all else that is done for a connection.
 */
const CLOSED_DELAY_MS = 10;

/** When the last connection that came from no dispatcher is closed, the dispatcher hears of it after this time. */
const HOLDING_DELAY_MS = 10;

/** Gets the answer at once: connections may come right after it. */
export type Granted = (listeners: readonly Listening[], tickets: TicketSecret | undefined) => void;

/** Of a server that shares its ticket keys: the secret that it has, or null. Undefined for all others. */
export type TicketRequest = TicketSecret | null | undefined;

interface Request {
  resolve: Granted;
  reject(error: Error): void;
}

export class Link {
  readonly #channel: Channel;
  readonly #events: LinkEvents;
  readonly #requests = new Map<number, Request>();
  readonly #unlistening = new Map<number, (isOpen: boolean) => void>();
  /** They are adopted as soon as the dispatcher is told: once, of all that has come in this turn of the event loop. */
  #adopting: Answered[] = [];
  /** The last answer; it settles behind all others, and never rejects. */
  #answered: Promise<void> = Promise.resolve();
  /** Those whose answer could not be sent. Who owns them is known when the channel's end is. */
  readonly #undecided: Answered[] = [];
  #nextRequest = 1;
  /** Of the last connection that was settled. */
  #position = 0;
  #closed = 0;
  #toldClosed = 0;
  /** Stops what will tell of closed connections; undefined when nothing will. */
  #stopTelling: (() => void) | undefined;
  /** Whether room here depends on what is closed. */
  #isLimited: boolean;
  /** Whether the end of a drain depends on it. */
  #isDraining = false;
  /** Whether connections are open here that came from no dispatcher. */
  #isHolding = false;
  #toldHolding = false;
  #holdingTimer: NodeJS.Timeout | undefined;
  /** Whether the dispatcher understands that. */
  #hearsHolding = false;
  /** Whether the dispatcher has died, and what it could not hand off any more comes from what it had left. */
  #isOrphaned = false;
  #farewell: PassfdError | undefined;
  /** Nothing is answered any more. */
  #isOver = false;
  #welcomed: ((welcome: Welcome) => void) | undefined;
  /** Settles when the channel has ended, and what was undecided is decided. Never rejects. */
  readonly ended: Promise<End>;

  private constructor(socket: StreamSocket, capacity: number | null, events: LinkEvents) {
    this.#channel = new Channel(socket);
    this.#isLimited = capacity !== null;
    this.#events = events;
    this.ended = this.#read();
  }

  /**
   * Says hello on a channel, and waits to be welcomed.
   * @throws {PassfdError} `ERR_DISPATCHER` with the dispatcher's reason, `ERR_HANDSHAKE_TIMEOUT`, `ERR_PEER_GONE`; then
   * the socket is closed
   */
  static async open(
    socket: StreamSocket,
    options: LinkOptions,
    events: LinkEvents,
  ): Promise<{ readonly link: Link; readonly welcome: Welcome }> {
    const { window, capacity, handshakeTimeoutMs, returns } = options;
    const link = new Link(socket, capacity, events);
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
        ...(returns && { returns: { ...returns, custody: returns.custody.length } }),
      } as const;
      link.#post(encodeFrame(encodeHello(hello)));
      traceStep('hello-sent');
      const welcomed = await welcome;
      link.#hearsHolding = welcomed.holding ?? false;
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

  /** Whether a drain has begun. The worker learns of one that the dispatcher began a tick later. */
  get isDraining(): boolean {
    return this.#isDraining;
  }

  /** Whether waiting for the dispatcher keeps the process alive. */
  setReferenced(on: boolean): void {
    if (on) this.#channel.socket.ref();
    else this.#channel.socket.unref();
  }

  /** Asks for the connections of the dispatcher's own addresses. */
  serve(tickets: TicketRequest, granted: Granted): Promise<void> {
    return this.#request(granted, (request) =>
      encodeJson({ type: 'serve', request, tickets: this.#encodeTickets(tickets) }),
    );
  }

  /** Asks for the connections that come to an address. @throws an error whose `code` is that of a system error */
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
   * Resolves when the address is free, or still served by other workers; also when the dispatcher is gone.
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

  /** @param listeners those whose servers have just proved to stay open; without it, all that were asked for */
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
    this.#isLimited = capacity !== null;
    if (this.#isLimited) this.#tellClosed();
  }

  /** Whether connections are open here that came from no dispatcher. The dispatcher hears a little later that there are none. */
  setHolding(on: boolean): void {
    this.#isHolding = on;
    if (!this.#hearsHolding || this.#isOver || on === this.#toldHolding) return;
    if (on) this.#tellHolding();
    else {
      this.#holdingTimer ??= setTimeout(() => {
        this.#holdingTimer = undefined;
        this.#tellHolding();
      }, HOLDING_DELAY_MS);
    }
  }

  #tellHolding(): void {
    if (this.#isHolding === this.#toldHolding || this.#isOver) return;
    this.#toldHolding = this.#isHolding;
    this.#post(encodeJson({ type: 'holding', on: this.#isHolding }));
  }

  /** Why this process is about to end, for who started it; at once, since nothing more may come of it. */
  sayLastWords(text: string): void {
    this.#post(encodeJson({ type: 'last-words', text: text.slice(0, MAX_LAST_WORDS) }));
  }

  /** One more connection is closed. The dispatcher is told with the next answer, or on its own before long. */
  noteClosed(): void {
    this.#closed++;
    if (this.#stopTelling) return;
    const tell = (): void => {
      this.#tellClosed();
    };
    if (this.#isLimited || this.#isDraining) {
      const immediate = setImmediate(tell);
      this.#stopTelling = () => {
        clearImmediate(immediate);
      };
    } else {
      const timer = setTimeout(tell, CLOSED_DELAY_MS).unref();
      this.#stopTelling = () => {
        clearTimeout(timer);
      };
    }
  }

  /** Ends the channel. What was adopted stays. */
  close(): void {
    this.#channel.socket.destroy();
  }

  #post(frame: Buffer): void {
    // When the dispatcher is gone, the end of the channel tells it.
    this.#channel.post(frame).catch(() => undefined);
  }

  #beginDraining(): void {
    this.#isDraining = true;
    this.#tellClosed();
  }

  #tellClosed(): void {
    this.#stopTelling?.();
    this.#stopTelling = undefined;
    if (this.#closed === this.#toldClosed || this.#channel.socket.closed) return;
    this.#post(this.#takeClosed());
    traceStep('closed-sent');
  }

  #takeClosed(): Buffer {
    this.#toldClosed = this.#closed;
    return encodeClosed(this.#closed);
  }

  /** A dispatcher of another user does not get a secret that an earlier one has given. */
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
      // Closed here, or the dispatcher broke the protocol: what it had sent is its own again.
      this.#farewell ??=
        error instanceof PassfdError ? error : new PassfdError('ERR_PROTOCOL', String(error));
    }
    this.#tellAdopted();
    this.#channel.socket.destroy();
    this.#isOver = true;
    clearTimeout(this.#holdingTimer);
    for (const request of this.#requests.values()) request.reject(this.#farewell ?? goneError());
    this.#requests.clear();
    for (const resolve of this.#unlistening.values()) resolve(false);
    this.#unlistening.clear();
    await this.#answered;
    this.#decide();
    return this.#farewell ? { is: 'farewell', error: this.#farewell } : { is: 'gone' };
  }

  #on(message: ToWorker, take: TakeGroup): void {
    switch (message.type) {
      case 'handoff':
        this.#onHandoff(message.listener, message.count, take);
        break;
      case 'handoff-again':
        this.#onHandoffAgain(message, take);
        break;
      case 'orphaned':
        this.#isOrphaned = true;
        break;
      case 'custody':
        this.#onCustody(message, take);
        break;
      case 'release':
        this.#events.relieved(message.listeners, message.stale ?? false);
        break;
      case 'welcome':
        traceStep('welcomed');
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
        const error = new PassfdError('ERR_LISTEN', said(message.reason), {
          cause: { code: message.code },
        });
        this.#requests.get(message.request)?.reject(error);
        this.#requests.delete(message.request);
        break;
      }
      case 'tickets': {
        const secret = decodeTickets(message.tickets);
        if (secret) this.#events.ticketsChanged(message.listener, secret);
        break;
      }
      case 'drain':
        traceStep('drain-received');
        this.#beginDraining();
        // The app's listeners run in it: what they throw is no business of the channel's.
        process.nextTick(() => {
          this.#events.drain();
        });
        break;
      case 'farewell':
        this.#farewell = new PassfdError(
          'ERR_DISPATCHER',
          `The dispatcher refused this worker: ${said(message.reason)}`,
        );
    }
  }

  #onCustody(
    { listener, key, file, backlog }: Extract<ToWorker, { type: 'custody' }>,
    take: TakeGroup,
  ): void {
    const group = take(1);
    const [descriptor] = group === 'lost' ? [] : group;
    // Where this process has no descriptor left, other workers have it.
    if (descriptor) this.#events.entrusted(listener, { label: { key, file, backlog }, descriptor });
  }

  /** The dispatcher died in the moment of sending them, and cannot be asked whether it had. */
  #onHandoffAgain(
    { position, listener, count }: Extract<ToWorker, { type: 'handoff-again' }>,
    take: TakeGroup,
  ): void {
    if (position > this.#position) {
      this.#onHandoff(listener, count, take);
      return;
    }
    const duplicates = take(count);
    if (duplicates !== 'lost') closeAll(duplicates);
  }

  #onHandoff(listener: number, count: number, take: TakeGroup): void {
    const group = take(count);
    traceStep('received');
    if (this.#isOrphaned) {
      this.#position += count;
      this.#inherit(listener, group);
      return;
    }
    if (group === 'lost') {
      this.#refuse(count, { target: undefined, descriptors: [], isExpected: false }, 'descriptors');
      return;
    }
    const target = this.#events.targetOf(listener);
    const isDraining = this.#events.isDraining();
    const adopted = target && !isDraining ? group.splice(0, Math.min(target.room, count)) : [];
    if (target && adopted.length > 0) this.#adopt(target, adopted);
    if (group.length === 0) return;
    const reason = isDraining ? 'draining' : target ? 'capacity' : 'not-listening';
    this.#refuse(group.length, { target, descriptors: group, isExpected: false }, reason);
  }

  /** There is nobody to refuse them to. */
  #inherit(listener: number, group: DescriptorGroup): void {
    const target = this.#events.targetOf(listener);
    if (group === 'lost') return;
    if (!target) {
      closeAll(group);
      return;
    }
    target.expect(group.length);
    this.#events.opened(group.length);
    for (const descriptor of group) this.#deliver(target, descriptor);
  }

  #adopt(target: Target, descriptors: Descriptor[]): void {
    this.#position += descriptors.length;
    target.expect(descriptors.length);
    // From here on nobody may think that nothing is open here: a drain may be right behind.
    this.#events.opened(descriptors.length);
    this.#adopting.push({ target, descriptors, isExpected: true });
    if (this.#adopting.length > 1) return;
    // Behind all that the channel has at this moment: it is read in microtasks.
    process.nextTick(() => {
      this.#tellAdopted();
    });
  }

  /** The whole point: the dispatcher knows before a byte is read. */
  #tellAdopted(): void {
    if (this.#adopting.length === 0) return;
    const adopted = this.#adopting;
    this.#adopting = [];
    const frame = encodeAdopted(this.#position);
    const isTellingClosed = this.#closed > this.#toldClosed;
    const frames = isTellingClosed ? Buffer.concat([frame, this.#takeClosed()]) : frame;
    this.#answer(frames, adopted, () => {
      traceStep('adopted');
      if (isTellingClosed) traceStep('closed-sent');
      for (const { target, descriptors } of adopted) {
        if (target) for (const descriptor of descriptors) this.#deliver(target, descriptor);
      }
    });
  }

  #refuse(count: number, refused: Answered, reason: RefusalReason): void {
    // In the order of the positions.
    this.#tellAdopted();
    this.#position += count;
    this.#answer(encodeRefused(this.#position, reason), [refused], () => {
      closeAll(refused.descriptors);
      traceStep('refused');
    });
  }

  /** @param done called when the dispatcher is told; where it cannot be, the channel's end decides */
  #answer(frames: Buffer, answered: readonly Answered[], done: () => void): void {
    this.#answered = this.#channel.post(frames).then(done, () => {
      this.#undecided.push(...answered);
    });
  }

  /** A dispatcher that lives has its own copies, and gives them to others. One that died had the only others. */
  #decide(): void {
    for (const { target, descriptors, isExpected } of this.#undecided.splice(0)) {
      if (!target || this.#farewell) {
        if (isExpected) target?.expect(-descriptors.length);
        closeAll(descriptors);
        for (let count = isExpected ? descriptors.length : 0; count > 0; count--) {
          this.#events.closed(undefined);
        }
        continue;
      }
      if (!isExpected) {
        target.expect(descriptors.length);
        this.#events.opened(descriptors.length);
      }
      for (const descriptor of descriptors) this.#deliver(target, descriptor);
    }
  }

  /** Each on its own, so that an exception of the app's is an ordinary one, and concerns no other connection. */
  #deliver(target: Target, descriptor: Descriptor): void {
    process.nextTick(() => {
      target.deliver(descriptor, (passedOn) => {
        this.#events.closed(passedOn);
      });
      traceStep('delivered');
    });
  }
}

function decodeTickets(message: TicketSecretMessage | undefined): TicketSecret | undefined {
  return message && TicketSecret.decode(message, performance.now());
}

function goneError(): PassfdError {
  return new PassfdError('ERR_PEER_GONE', 'The dispatcher closed the channel, or died');
}

/** It becomes part of a message, which an app may print. */
function said(reason: string): string {
  return printable(shortened(reason));
}
