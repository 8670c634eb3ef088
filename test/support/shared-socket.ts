// SharedSocket: workers that share a listening socket, simulated, under the rules of `govern`. One look is 5 ms.
import { govern, nothingSeen, type Memory, type Watcher } from '../../src/dispatcher/direct/govern.js';

export interface Simulated {
  readonly id: number;
  weight: number;
  open: number;
  isWatching: boolean;
  /** Full, or stalled and known to be. */
  isAble: boolean;
  /** Connections that it accepts in one look at most. */
  rate: number;
  /** Turns of its loop in one look. */
  turns: number;
  /** Looks for which a connection stays open. */
  life: number;
  isDispatcher?: boolean;
  /** Whether it is in a long turn now. */
  isBlocked(look: number): boolean;
  /** In the last look. */
  accepted: number;
  taken: number;
}

export class SharedSocket {
  readonly workers: Simulated[] = [];
  readonly #cores: number;
  /** The look at which each waiting client came. */
  readonly #queue: number[] = [];
  /** Who closes a connection at which look. */
  readonly #ends = new Map<number, Simulated[]>();
  #memory: Memory = nothingSeen;
  look = 0;
  /** The longest wait of a client, in looks. */
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
  pass(looks: number, clientsPerLook: number | ((look: number) => number) = 0): void {
    for (let count = 0; count < looks; count++) {
      this.look++;
      const clients = typeof clientsPerLook === 'number' ? clientsPerLook : clientsPerLook(this.look);
      for (let client = 0; client < clients; client++) this.#queue.push(this.look);
      for (const worker of this.#ends.get(this.look) ?? []) worker.open--;
      this.#ends.delete(this.look);
      for (const worker of this.workers) this.#accept(worker);
      this.#decide();
    }
  }

  #accept(worker: Simulated): void {
    worker.accepted = 0;
    if (!worker.isWatching || worker.isBlocked(this.look)) return;
    while (worker.accepted < worker.rate) {
      const came = this.#queue.shift();
      if (came === undefined) break;
      this.longestWait = Math.max(this.longestWait, this.look - came);
      worker.accepted++;
      worker.taken++;
      worker.open++;
      const end = this.look + worker.life;
      if (end !== Infinity) this.#ends.set(end, [...(this.#ends.get(end) ?? []), worker]);
    }
  }

  #decide(): void {
    const watchers = this.workers.map((worker): Watcher => ({
      ...worker,
      turns: worker.isBlocked(this.look) ? 0 : worker.turns,
    }));
    const decision = govern(this.#memory, { watchers, queue: this.#queue.length, cores: this.#cores });
    this.#memory = decision.memory;
    for (const worker of this.workers) {
      const isWatching = decision.watching.has(worker.id);
      if (isWatching !== worker.isWatching) this.changes++;
      worker.isWatching = isWatching;
    }
  }
}
