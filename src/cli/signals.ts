// Signals: what a service does on each of them, from here until it is disposed of, or passes them on to its next generation.

/** They ask it to stop; a second one to stop at once. */
const STOPPING = ['SIGTERM', 'SIGINT'] as const;

export interface SignalHandlers {
  stop(signal: NodeJS.Signals): void;
  SIGHUP(): void;
  SIGUSR2(): void;
}

export class Signals implements Disposable {
  /** Resolves at the second one that asks to stop. */
  readonly second: Promise<void>;
  readonly #listeners: readonly (readonly [NodeJS.Signals, (signal: NodeJS.Signals) => void])[];
  #stops = 0;
  #passOn: ((signal: NodeJS.Signals) => void) | undefined;

  constructor(handlers: SignalHandlers) {
    let onSecond = (): void => undefined;
    this.second = new Promise((resolve) => {
      onSecond = resolve;
    });
    const onStop = (signal: NodeJS.Signals): void => {
      if (++this.#stops === 1) handlers.stop(signal);
      else onSecond();
    };
    const onHup = (): void => {
      handlers.SIGHUP();
    };
    const onUser = (): void => {
      handlers.SIGUSR2();
    };
    const listeners: readonly (readonly [NodeJS.Signals, (signal: NodeJS.Signals) => void])[] = [
      ...STOPPING.map((signal) => [signal, onStop] as const),
      ['SIGHUP', onHup],
      ['SIGUSR2', onUser],
    ];
    this.#listeners = listeners.map(([signal, handle]) => [
      signal,
      () => {
        if (this.#passOn) this.#passOn(signal);
        else handle(signal);
      },
    ]);
    for (const [signal, listener] of this.#listeners) process.on(signal, listener);
  }

  /** How often it was asked to stop. */
  get stops(): number {
    return this.#stops;
  }

  /** From now on they are another process's business. A second call names another one. */
  passOnTo(receiver: (signal: NodeJS.Signals) => void): void {
    this.#passOn = receiver;
  }

  [Symbol.dispose](): void {
    for (const [signal, listener] of this.#listeners) process.off(signal, listener);
  }
}
