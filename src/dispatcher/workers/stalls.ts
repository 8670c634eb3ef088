// Stalls: whether a worker has stalled, for either reason: it answers no hand-off, or its event loop stands still.
import type { PassfdWorkerState } from '../succession/worker-state.js';
import type { PassfdWorkerEvents } from './passfd-worker-host.js';
import type { PassfdWorker } from './passfd-worker.js';
import { StallWatch } from './stall-watch.js';

type StallState = Pick<PassfdWorkerState, 'isStalled' | 'hasLoopStalled'>;

export class Stalls {
  readonly #answers: StallWatch;
  readonly #worker: PassfdWorker;
  readonly #events: PassfdWorkerEvents;
  #hasLoopStalled: boolean;

  /** @param before what was reported before. It is not reported again */
  constructor(worker: PassfdWorker, events: PassfdWorkerEvents, before: StallState) {
    const onSilent = (): void => {
      if (!this.#hasLoopStalled) events.stalled(worker);
    };
    this.#answers = new StallWatch(worker, onSilent, before.isStalled);
    this.#worker = worker;
    this.#events = events;
    this.#hasLoopStalled = before.hasLoopStalled ?? false;
  }

  get isStalled(): boolean {
    return this.#answers.isStalled || this.#hasLoopStalled;
  }

  get hasLoopStalled(): boolean {
    return this.#hasLoopStalled;
  }

  state(): StallState {
    return { isStalled: this.#answers.isStalled, hasLoopStalled: this.#hasLoopStalled };
  }

  /** Something is in flight. A second call does nothing. */
  start(): void {
    this.#answers.start();
  }

  /** The worker has answered. @returns reports that it has resumed, if it has */
  noteAnswer(): () => void {
    const hasResumed = this.#answers.resume() && !this.#hasLoopStalled;
    return () => {
      if (hasResumed) this.#events.resumed(this.#worker);
    };
  }

  /** Whether the event loop of the worker stands still, as its board shows. */
  noteLoop(hasStalled: boolean): void {
    const wasStalled = this.isStalled;
    this.#hasLoopStalled = hasStalled;
    if (this.isStalled === wasStalled) return;
    if (hasStalled) this.#events.stalled(this.#worker);
    else this.#events.resumed(this.#worker);
  }

  stop(): void {
    this.#answers.stop();
  }
}
