// HeldHost: a host whose events can be held back, delivered later or dropped, for the takeover of a supervisor.
import type { Exit } from './exit.js';
import type { Host, ProcessName, Spawned, Start, Timer, Watch } from './host.js';
import type { ChildOutput, OnLost, OutputEnds } from './output.js';

type State =
  | { readonly is: 'open' }
  /** With the events since then, in their order. */
  | { readonly is: 'frozen'; readonly events: (() => void)[] }
  | { readonly is: 'disowned' };

export class HeldHost {
  readonly #host: Host;
  #state: State = { is: 'open' };
  /** Ends each timer, each watch, and what keeps this process alive for a child. */
  readonly #ties = new Set<() => void>();
  readonly #outputs = new Set<ChildOutput>();

  constructor(host: Host) {
    this.#host = host;
  }

  get isFrozen(): boolean {
    return this.#state.is === 'frozen';
  }

  get isDisowned(): boolean {
    return this.#state.is === 'disowned';
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
    if (this.#state.is !== 'disowned') this.#host.kill(process, signal);
  }

  now(): number {
    return this.#host.now();
  }

  setTimer(callback: () => void, delayMs: number): Timer {
    let isCleared = this.#state.is === 'disowned';
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
   * @returns false when it was thawed or disowned meanwhile
   */
  async freeze(): Promise<boolean> {
    const frozen: State = { is: 'frozen', events: [] };
    this.#state = frozen;
    await Promise.all([...this.#outputs].map((output) => output.freeze()));
    return this.#state === frozen;
  }

  /** Delivers the events that were held back, and goes on. */
  thaw(): void {
    if (this.#state.is !== 'frozen') return;
    const { events } = this.#state;
    this.#state = { is: 'open' };
    for (const output of this.#outputs) output.thaw();
    for (const deliver of events) deliver();
  }

  /** Drops all events, timers and watches. No process is ended. Resolves when output that was not handed over is written. */
  async disown(): Promise<void> {
    this.#state = { is: 'disowned' };
    for (const end of [...this.#ties]) end();
    this.#ties.clear();
    await Promise.all([...this.#outputs].map((output) => output.disown()));
  }

  /** Runs it now, or after `thaw` while events are held back. */
  deliver(event: () => void): void {
    switch (this.#state.is) {
      case 'open':
        event();
        break;
      case 'frozen':
        this.#state.events.push(event);
        break;
      case 'disowned':
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
