// SharedSocket: workers that share a listening socket, simulated, under the rules of `govern`. Time passes in steps of 5 ms.
import { govern, nothingSeen, type Memory, type Watcher } from '../../src/dispatcher/direct/govern.js';

export const STEP_MS = 5;

export interface Simulated {
  readonly id: number;
  weight: number;
  open: number;
  isWatching: boolean;
  /** Full, or stalled and known to be. */
  isAble: boolean;
  /** Connections that it accepts in one step at most. */
  rate: number;
  /** Turns of its loop in one step. */
  turns: number;
  /** Steps for which a connection stays open. */
  life: number;
  isDispatcher?: boolean;
  /** Whether it is in a long turn now. */
  isBlocked(step: number): boolean;
  /** Since the last look. */
  accepted: number;
  taken: number;
}

export class SharedSocket {
  readonly workers: Simulated[] = [];
  readonly #cores: number;
  /** The step at which each waiting client came. */
  readonly #queue: number[] = [];
  /** Who closes a connection at which step. */
  readonly #ends = new Map<number, Simulated[]>();
  #memory: Memory = nothingSeen;
  /** Steps since the last look, and until the next one. */
  #since = 0;
  #until = 0;
  /** Turns of each loop since the last look. */
  readonly #turns = new Map<Simulated, number>();
  step = 0;
  /** The longest wait of a client, in steps. */
  longestWait = 0;
  /** How often a worker was told to watch, or to stop. */
  changes = 0;

  constructor(cores = 2) {
    this.#cores = cores;
  }

  add(id: number, options: Partial<Simulated> = {}): Simulated {
    const worker: Simulated = {
      id,
      weight: 1,
      open: 0,
      isWatching: false,
      isAble: true,
      rate: 20,
      turns: 40,
      life: Infinity,
      isBlocked: () => false,
      accepted: 0,
      taken: 0,
      ...options,
    };
    this.workers.push(worker);
    return worker;
  }

  /** The worker dies. @returns how many connections are lost with it */
  remove(worker: Simulated): number {
    this.workers.splice(this.workers.indexOf(worker), 1);
    return worker.open;
  }

  get watching(): number[] {
    return this.workers.filter(({ isWatching }) => isWatching).map(({ id }) => id);
  }

  get waiting(): number {
    return this.#queue.length;
  }

  /** Clients come, workers accept, and the governor looks. The first worker that watches wins every race. */
  pass(steps: number, clientsPerStep: number | ((step: number) => number) = 0): void {
    for (let count = 0; count < steps; count++) {
      this.step++;
      const clients = typeof clientsPerStep === 'number' ? clientsPerStep : clientsPerStep(this.step);
      for (let client = 0; client < clients; client++) this.#queue.push(this.step);
      for (const worker of this.#ends.get(this.step) ?? []) worker.open--;
      this.#ends.delete(this.step);
      for (const worker of this.workers) this.#accept(worker);
      this.#since++;
      if (--this.#until <= 0) this.#look();
    }
  }

  #accept(worker: Simulated): void {
    if (worker.isBlocked(this.step)) return;
    this.#turns.set(worker, (this.#turns.get(worker) ?? 0) + worker.turns);
    if (!worker.isWatching) return;
    for (let accepted = 0; accepted < worker.rate; accepted++) {
      const came = this.#queue.shift();
      if (came === undefined) break;
      this.longestWait = Math.max(this.longestWait, this.step - came);
      worker.accepted++;
      worker.taken++;
      worker.open++;
      const end = this.step + worker.life;
      if (end !== Infinity) this.#ends.set(end, [...(this.#ends.get(end) ?? []), worker]);
    }
  }

  #look(): void {
    const watchers = this.workers.map((worker): Watcher => ({
      ...worker,
      turns: this.#turns.get(worker) ?? 0,
    }));
    const elapsedMs = this.#since * STEP_MS;
    const look = { watchers, queue: this.#queue.length, cores: this.#cores, elapsedMs };
    const decision = govern(this.#memory, look);
    this.#memory = decision.memory;
    this.#since = 0;
    this.#until = Math.ceil(decision.nextMs / STEP_MS);
    this.#turns.clear();
    for (const worker of this.workers) {
      const isWatching = decision.watching.has(worker.id);
      if (isWatching !== worker.isWatching) this.changes++;
      worker.isWatching = isWatching;
      worker.accepted = 0;
    }
  }
}
