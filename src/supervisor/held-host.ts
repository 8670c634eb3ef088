// HeldHost: a host whose events can be held back, delivered later or dropped, for the takeover of a supervisor.
import type { Exit } from './exit.js';
import type { Host, ProcessName, Spawned, Start, Timer, Watch } from './host.js';
import type { ChildOutput, OnLost, OutputEnds } from './output.js';

type State =
  | { readonly is: 'open' }
  /** With the events since then, in their order. */
  | { readonly is: 'held'; readonly events: (() => void)[] }
  | { readonly is: 'dropped' };

export class HeldHost {
  readonly #host: Host;
  #state: State = { is: 'open' };
  /** Ends each timer, each watch, and what keeps this process alive for a child. */
  readonly #ties = new Set<() => void>();
  readonly #outputs = new Set<ChildOutput>();

  constructor(host: Host) {
    this.#host = host;
  }

  get isHeld(): boolean {
    return this.#state.is === 'held';
  }

  get isDropped(): boolean {
    return this.#state.is === 'dropped';
  }

  /** See `Host.spawn`. @param describe returns what to start. If it throws, `onExit` gets the error */
  spawn(describe: () => Start, onExit: (exit: Exit) => void, onLost: OnLost): Spawned | undefined {
    let start: Start;
    try {
      start = describe();
    } catch (error) {
      queueMicrotask(() => {
        this.deliver(() => {
          onExit({ is: 'not-started', error: error as Error });
        });
      });
      return undefined;
    }
    const spawned = this.#host.spawn(
      start,
      (exit) => {
        if (spawned) this.#ties.delete(spawned.forget);
        this.deliver(() => {
          onExit(exit);
        });
      },
      this.#deliverLost(onLost),
    );
    if (!spawned) return undefined;
    this.#ties.add(spawned.forget);
    if (spawned.output) this.#keep(spawned.output);
    return spawned;
  }

  watch(process: ProcessName, onEnded: () => void): void {
    const watch: Watch = this.#host.watch(process, () => {
      this.#ties.delete(close);
      this.deliver(onEnded);
    });
    const close = (): void => {
      watch.close();
    };
    this.#ties.add(close);
  }

  forward(ends: OutputEnds, prefix: string, onLost: OnLost): ChildOutput {
    const output = this.#host.forward(ends, prefix, this.#deliverLost(onLost));
    this.#keep(output);
    return output;
  }

  launchedBy(pid: number): string | undefined {
    return this.#host.launchedBy(pid);
  }

  kill(process: ProcessName, signal: 'SIGTERM' | 'SIGKILL'): void {
    if (this.#state.is !== 'dropped') this.#host.kill(process, signal);
  }

  now(): number {
    return this.#host.now();
  }

  setTimer(callback: () => void, delayMs: number): Timer {
    let isCleared = this.#state.is === 'dropped';
    if (isCleared) return { clear: () => undefined };
    const timer = this.#host.setTimer(() => {
      this.#ties.delete(clear);
      this.deliver(() => {
        if (!isCleared) callback();
      });
    }, delayMs);
    const clear = (): void => {
      isCleared = true;
      this.#ties.delete(clear);
      timer.clear();
    };
    this.#ties.add(clear);
    return { clear };
  }

  /**
   * Holds all events back. Resolves when no output is read any more.
   * @returns false when it was resumed or dropped meanwhile
   */
  async hold(): Promise<boolean> {
    const held: State = { is: 'held', events: [] };
    this.#state = held;
    await Promise.all([...this.#outputs].map((output) => output.pause()));
    return this.#state === held;
  }

  /** Delivers the events that were held back, and goes on. */
  resume(): void {
    if (this.#state.is !== 'held') return;
    const { events } = this.#state;
    this.#state = { is: 'open' };
    for (const output of this.#outputs) output.resume();
    for (const deliver of events) deliver();
  }

  /** Drops all events, timers and watches. No process is ended. Resolves when output that was not handed over is written. */
  async drop(): Promise<void> {
    this.#state = { is: 'dropped' };
    for (const end of [...this.#ties]) end();
    this.#ties.clear();
    await Promise.all([...this.#outputs].map((output) => output.release()));
  }

  /** Runs it now, or after `resume` while events are held back. */
  deliver(event: () => void): void {
    switch (this.#state.is) {
      case 'open':
        event();
        break;
      case 'held':
        this.#state.events.push(event);
        break;
      case 'dropped':
    }
  }

  #deliverLost(onLost: OnLost): OnLost {
    return (error) => {
      this.deliver(() => {
        onLost(error);
      });
    };
  }

  #keep(output: ChildOutput): void {
    this.#outputs.add(output);
    const forget = (): void => {
      this.#outputs.delete(output);
    };
    output.ended.then(forget, forget);
  }
}
