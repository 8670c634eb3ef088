// HeldHost: a host whose news can be held back, told later or dropped, so that one supervisor can give way to the next.
import type { Exit } from './exit.js';
import type { Host, ProcessName, Spawned, Start, Timer, Watch } from './host.js';
import type { ChildOutput, OnLost, OutputEnds } from './output.js';

type State =
  | { readonly is: 'open' }
  /** What has happened meanwhile, in its order. */
  | { readonly is: 'held'; readonly news: (() => void)[] }
  | { readonly is: 'dropped' };

export class HeldHost {
  readonly #host: Host;
  #state: State = { is: 'open' };
  /** What ends each timer, watch and tie to a child that is still there. */
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

  /** As `Host.spawn`. @param describe what to start; when it throws, that is why nothing could be started */
  spawn(describe: () => Start, onExit: (exit: Exit) => void, onLost: OnLost): Spawned | undefined {
    let start: Start;
    try {
      start = describe();
    } catch (error) {
      queueMicrotask(() => {
        this.tell(() => {
          onExit({ is: 'not-started', error: error as Error });
        });
      });
      return undefined;
    }
    const spawned = this.#host.spawn(
      start,
      (exit) => {
        if (spawned) this.#ties.delete(spawned.forget);
        this.tell(() => {
          onExit(exit);
        });
      },
      this.#tellLost(onLost),
    );
    if (!spawned) return undefined;
    this.#ties.add(spawned.forget);
    if (spawned.output) this.#keep(spawned.output);
    return spawned;
  }

  watch(process: ProcessName, onEnded: () => void): void {
    const watch: Watch = this.#host.watch(process, () => {
      this.#ties.delete(close);
      this.tell(onEnded);
    });
    const close = (): void => {
      watch.close();
    };
    this.#ties.add(close);
  }

  forward(ends: OutputEnds, prefix: string, onLost: OnLost): ChildOutput {
    const output = this.#host.forward(ends, prefix, this.#tellLost(onLost));
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
      this.tell(() => {
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
   * From now on nothing is told. Resolves when no output is read any more either.
   * @returns whether that is still so
   */
  async hold(): Promise<boolean> {
    const held: State = { is: 'held', news: [] };
    this.#state = held;
    await Promise.all([...this.#outputs].map((output) => output.pause()));
    return this.#state === held;
  }

  /** Tells what has happened meanwhile, and goes on. */
  resume(): void {
    if (this.#state.is !== 'held') return;
    const { news } = this.#state;
    this.#state = { is: 'open' };
    for (const output of this.#outputs) output.resume();
    for (const tell of news) tell();
  }

  /** Behind `hold`: drops everything, and ends nothing. Resolves when the output that nobody goes on with is written. */
  async drop(): Promise<void> {
    this.#state = { is: 'dropped' };
    for (const end of [...this.#ties]) end();
    this.#ties.clear();
    await Promise.all([...this.#outputs].map((output) => output.release()));
  }

  /** Now; or after `resume`, where it is held. */
  tell(news: () => void): void {
    switch (this.#state.is) {
      case 'open':
        news();
        break;
      case 'held':
        this.#state.news.push(news);
        break;
      case 'dropped':
    }
  }

  #tellLost(onLost: OnLost): OnLost {
    return (error) => {
      this.tell(() => {
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
