// Signals: what a service does on each of them, from here until it is disposed of.

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
    this.#listeners = [
      ...STOPPING.map((signal) => [signal, onStop] as const),
      ['SIGHUP', onHup],
      ['SIGUSR2', onUser],
    ];
    for (const [signal, listener] of this.#listeners) process.on(signal, listener);
  }

  [Symbol.dispose](): void {
    for (const [signal, listener] of this.#listeners) process.off(signal, listener);
  }
}
