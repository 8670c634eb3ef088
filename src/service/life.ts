// Life: whether this generation has begun to serve, and why it ends.

/** Why a generation ends. */
export type End =
  | { readonly is: 'signal' | 'request' | 'finished' }
  | { readonly is: 'failed'; readonly error: unknown }
  | { readonly is: 'handed-over' }
  /** The first process of the service was killed. It stands for the whole service. */
  | { readonly is: 'orphaned' };

export class Life {
  /** Resolves when this generation serves, or never will. */
  readonly begun: Promise<void>;
  /** Resolves with the first reason to end. */
  readonly ended: Promise<End>;
  #onBegun: () => void = () => undefined;
  #onEnded: (end: End) => void = () => undefined;
  #isEnding = false;
  #isStopping = false;

  constructor() {
    this.begun = new Promise((resolve) => {
      this.#onBegun = resolve;
    });
    this.ended = new Promise((resolve) => {
      this.#onEnded = resolve;
    });
  }

  get isEnding(): boolean {
    return this.#isEnding;
  }

  /** Whether a signal or a command asked this generation to stop. */
  get isStopping(): boolean {
    return this.#isStopping;
  }

  begin(): void {
    this.#onBegun();
  }

  end(end: End): void {
    this.#isEnding = true;
    this.#isStopping ||= end.is === 'signal' || end.is === 'request';
    this.#onBegun();
    this.#onEnded(end);
  }
}
