// Requests: answers what a worker asks for: connections of addresses, and the secrets of ticket keys.
import { PassfdError } from '../../fd/index.js';
import { encodeJson, shortened, type FromWorker, type TicketSecretMessage } from '../../handoff/index.js';
import type { Listener } from '../listener.js';
import type { Outlet } from './outlet.js';
import type { PassfdWorkerEvents, PassfdWorkerHost } from './passfd-worker-host.js';
import type { PassfdWorker } from './passfd-worker.js';

/** Answers that may wait for a worker to read them. */
const MAX_UNREAD_BYTES = 262_144;

type Message<Type extends FromWorker['type']> = Extract<FromWorker, { type: Type }>;

export class Requests {
  readonly #worker: PassfdWorker;
  readonly #outlet: Outlet;
  readonly #events: PassfdWorkerEvents;
  readonly #host: PassfdWorkerHost;
  #unreadBytes = 0;

  constructor(worker: PassfdWorker, outlet: Outlet, events: PassfdWorkerEvents, host: PassfdWorkerHost) {
    this.#worker = worker;
    this.#outlet = outlet;
    this.#events = events;
    this.#host = host;
  }

  /** The worker asks for the connections of the dispatcher's own addresses. */
  async serve(message: Message<'serve'>): Promise<void> {
    const listeners = await this.#host.ownListeners();
    if (!this.#worker.hasLeft) this.#subscribe(message, listeners);
  }

  async listen(message: Message<'listen'>): Promise<void> {
    const { address, backlog, request } = message;
    let listener: Listener;
    try {
      listener = await this.#host.listen(address, backlog);
    } catch (error) {
      const reason = shortened((error as Error).message);
      this.#answer(encodeJson({ type: 'listen-failed', request, code: systemCode(error), reason }));
      return;
    }
    if (this.#worker.hasLeft) await this.#host.unlisten(this.#worker, listener);
    else this.#subscribe(message, [listener]);
  }

  async unlisten({ listeners, request }: Message<'unlisten'>): Promise<void> {
    // A message can name thousands of listeners that the worker never had. These cost no promise.
    const known = listeners.filter((id) => this.#worker.subscriptions.has(id));
    const areOpen = await Promise.all(known.map((id) => this.#unsubscribe(id)));
    if (request === undefined) return;
    this.#answer(encodeJson({ type: 'unlistened', request, ...(areOpen.includes(true) && { open: true }) }));
  }

  #subscribe(
    { request, tickets: brought }: Message<'serve' | 'listen'>,
    listeners: readonly Listener[],
  ): void {
    for (const listener of listeners) {
      this.#worker.subscriptions.add(listener, this.#worker.state === 'draining');
      this.#events.subscribed(this.#worker);
    }
    const described = listeners.map(({ id, address }) => ({ id, address }));
    const tickets = brought === undefined ? undefined : this.#shareTickets(listeners[0], brought);
    this.#answer(encodeJson({ type: 'listening', request, listeners: described, tickets }));
    this.#events.changed(this.#worker);
  }

  #shareTickets(
    listener: Listener | undefined,
    brought: TicketSecretMessage | null,
  ): TicketSecretMessage | undefined {
    const secret = listener && this.#host.ticketSecret(listener, brought);
    if (secret) this.#worker.subscriptions.shareTickets(listener);
    return secret;
  }

  /** @returns whether the address is still open */
  async #unsubscribe(id: number): Promise<boolean> {
    const removed = this.#worker.subscriptions.remove(id);
    if (!removed) return false;
    if (removed.isLast) {
      this.#events.subscribed(this.#worker);
      this.#events.serving(this.#worker);
    }
    return this.#host.unlisten(this.#worker, removed.listener);
  }

  /** @throws {PassfdError} `ERR_PROTOCOL` when the worker leaves too many answers unread */
  #answer(frame: Buffer): void {
    if (this.#outlet.isClosed) return;
    this.#unreadBytes += frame.length;
    if (this.#unreadBytes > MAX_UNREAD_BYTES) {
      throw new PassfdError(
        'ERR_PROTOCOL',
        `The worker left more than ${MAX_UNREAD_BYTES} bytes of answers unread`,
      );
    }
    const taken = (): void => {
      this.#unreadBytes -= frame.length;
    };
    this.#outlet.send(frame).then(taken, taken);
  }
}

/** The code that an app sees when its `listen` fails. */
function systemCode(error: unknown): string {
  if (!(error instanceof PassfdError)) return 'EINVAL';
  const { code } = (error.cause ?? {}) as { code?: unknown };
  if (typeof code === 'string') return code;
  if (error.code === 'ERR_ADDRESS_IN_USE') return 'EADDRINUSE';
  return error.code === 'ERR_ADDRESS_DENIED' ? 'EACCES' : 'EINVAL';
}
