// Subscriptions: the listeners whose connections a worker takes, and those that it served before.
import { setTimeout as startTimer } from 'node:timers';

import type { FormerListener, Listener } from '../listener.js';
import type { PassfdWorkerState } from '../succession/worker-state.js';

/**
 * How long a worker gets no connections of a listener after it refused one, unless it closes a connection first. It may
 * be out of descriptors, and the kernel has no event for a free descriptor in another process.
 */
const REFUSAL_PAUSE_MS = 100;

interface Subscription {
  readonly listener: Listener;
  pause: NodeJS.Timeout | undefined;
  /** Servers of the worker that asked for the listener and are not closed. */
  servers: number;
  /**
   * Whether none of these servers is known to stay open. Some programs open a server only to see whether a port is free,
   * and close it at once.
   */
  isNew: boolean;
  /** Whether the worker has asked for the secret of the ticket keys, and gets each later one. */
  sharesTickets: boolean;
}

type SubscriptionsState = Pick<PassfdWorkerState, 'subscriptions' | 'givenBack'>;

export class Subscriptions {
  readonly #byListener = new Map<number, Subscription>();
  /** See `givenBack`. By their keys. */
  readonly #givenBack = new Map<string, FormerListener>();
  /** See `noteReopened`. */
  readonly #reopened: Listener[] = [];
  /** What the worker served when its drain began. */
  #servedBefore: readonly Listener[] | undefined;
  readonly #onPauseOver: () => void;

  /** @param onPauseOver called when a pause after a refusal has ended by itself */
  constructor(onPauseOver: () => void) {
    this.#onPauseOver = onPauseOver;
  }

  /** Goes on where another dispatcher was. Subscriptions to listeners that do not exist here are left out. */
  restore(
    { subscriptions, givenBack = [] }: SubscriptionsState,
    listeners: ReadonlyMap<number, Listener>,
  ): void {
    for (const former of givenBack) this.#givenBack.set(former.key, former);
    for (const { listener: id, servers, isNew = false, sharesTickets = false } of subscriptions) {
      const listener = listeners.get(id);
      if (!listener) continue;
      this.#byListener.set(id, { listener, pause: undefined, servers, isNew, sharesTickets });
    }
  }

  state(): SubscriptionsState {
    return {
      subscriptions: Array.from(this.#byListener, ([listener, { servers, isNew, sharesTickets }]) => ({
        listener,
        servers,
        isNew,
        sharesTickets,
      })),
      givenBack: this.givenBack.map(({ key, address, backlog }) => ({ key, address, backlog })),
    };
  }

  get size(): number {
    return this.#byListener.size;
  }

  /** Ids of the listeners. */
  get ids(): Iterable<number> {
    return this.#byListener.keys();
  }

  /** Listeners that the worker has asked for and has not closed. */
  get all(): readonly Listener[] {
    return Array.from(this.#byListener.values(), ({ listener }) => listener);
  }

  has(id: number): boolean {
    return this.#byListener.has(id);
  }

  /** Whether the worker is subscribed to exactly this listener, and not to another one with the same id. */
  includes(listener: Listener): boolean {
    return this.#byListener.get(listener.id)?.listener === listener;
  }

  /** Whether connections of the listener may be sent to the worker now: no refusal pauses them. */
  isOpen({ id }: Listener): boolean {
    const subscription = this.#byListener.get(id);
    return subscription !== undefined && subscription.pause === undefined;
  }

  /** Whether a server of the worker there is known to stay open. */
  isServed({ id }: Listener): boolean {
    return this.#byListener.get(id)?.isNew === false;
  }

  /**
   * Listeners that the worker serves, or served when it left. While it drains: those that it served when the drain began.
   */
  get serving(): readonly Listener[] {
    return [...(this.#servedBefore ?? this.#served), ...this.#reopened];
  }

  get #served(): readonly Listener[] {
    return [...this.#byListener.values()].filter(({ isNew }) => !isNew).map(({ listener }) => listener);
  }

  /** Listeners that the worker served, and has closed since it last asked for a listener: what it closes when it exits. */
  get givenBack(): readonly FormerListener[] {
    return [...this.#givenBack.values()];
  }

  /** Whether the worker has closed all its servers, and not because it drains. */
  get hasClosedAll(): boolean {
    return this.#byListener.size === 0 && (this.#servedBefore ?? []).length === 0;
  }

  /** The worker has opened a server there. @param isDraining whether the worker drains */
  add(listener: Listener, isDraining: boolean): void {
    if (!isDraining) this.#givenBack.clear();
    const subscription = this.#byListener.get(listener.id);
    if (subscription) subscription.servers++;
    else {
      this.#byListener.set(listener.id, {
        listener,
        pause: undefined,
        servers: 1,
        isNew: true,
        sharesTickets: false,
      });
    }
  }

  /**
   * The worker has closed a server there.
   * @returns the listener, and whether that was the worker's last server there; undefined when it has none
   */
  remove(id: number): { readonly listener: Listener; readonly isLast: boolean } | undefined {
    const subscription = this.#byListener.get(id);
    if (!subscription) return undefined;
    const { listener } = subscription;
    const isLast = --subscription.servers === 0;
    if (isLast) {
      endPause(subscription);
      this.#byListener.delete(id);
      if (!subscription.isNew) this.#givenBack.set(listener.key, listener);
    }
    return { listener, isLast };
  }

  /**
   * Servers of these listeners are known to stay open.
   * @param ids all listeners by default: an earlier release does not list them
   * @returns whether that was not known of one of them
   */
  noteServed(ids: Iterable<number> = [...this.#byListener.keys()]): boolean {
    let isAnyNew = false;
    for (const id of ids) {
      const subscription = this.#byListener.get(id);
      if (subscription?.isNew !== true) continue;
      subscription.isNew = false;
      isAnyNew = true;
    }
    return isAnyNew;
  }

  noteDraining(): void {
    this.#servedBefore = this.serving;
  }

  /** The worker has exited, and a listener that it had closed is open again: as if the worker had not closed it. */
  noteReopened({ key }: FormerListener, listener: Listener): void {
    this.#givenBack.delete(key);
    this.#reopened.push(listener);
  }

  shareTickets({ id }: Listener): void {
    const subscription = this.#byListener.get(id);
    if (subscription) subscription.sharesTickets = true;
  }

  sharesTickets({ id }: Listener): boolean {
    return this.#byListener.get(id)?.sharesTickets === true;
  }

  /** The worker has refused a connection of the listener. */
  pause({ id }: Listener): void {
    const subscription = this.#byListener.get(id);
    if (!subscription || subscription.pause) return;
    subscription.pause = startTimer(() => {
      endPause(subscription);
      this.#onPauseOver();
    }, REFUSAL_PAUSE_MS);
  }

  endPauses(): void {
    for (const subscription of this.#byListener.values()) endPause(subscription);
  }
}

function endPause(subscription: Subscription): void {
  clearTimeout(subscription.pause);
  subscription.pause = undefined;
}
