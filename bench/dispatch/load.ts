// The load generator, as the works use it: what it is asked to do, and what it tells.
import type { Program, Stage } from './stage.js';

export interface Request {
  readonly work: 'http' | 'keep-alive' | 'raw' | 'bulk' | 'latency' | 'idle';
  readonly seconds?: number;
  readonly count?: number;
  /** At a time. */
  readonly connections?: number;
  /** Of a bulk answer. */
  readonly bytes?: number;
  /** Connections that begin per second, whatever the answers do. Latency counts from the planned moments. */
  readonly rate?: number;
}

export interface Latency {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export interface LoadResult {
  readonly type: 'result';
  readonly work: string;
  /** From the first connect to the last answer. */
  readonly seconds: number;
  readonly completed: number;
  readonly failed: number;
  readonly reasons: readonly string[];
  readonly perSecond: number;
  readonly bytes: number;
  /** Null when nothing was completed. */
  readonly latencyUs: Latency | null;
  /** By the worker's label. */
  readonly byWorker: Readonly<Record<string, number>>;
  readonly latencyByWorkerUs: Readonly<Record<string, Latency>>;
  readonly cpuUs: { readonly user: number; readonly system: number };
}

export class Load {
  readonly #stage: Stage;
  readonly #path: string;
  readonly #port: number;
  /** Connections of this stage so far: each has an address of its own to come from. */
  #firstSource = 0;

  constructor(stage: Stage, path: string, port: number) {
    this.#stage = stage;
    this.#path = path;
    this.#port = port;
  }

  /** @throws {Error} when it could not do it; answers that are wrong are in the result */
  async run(request: Request): Promise<LoadResult> {
    return resultOf(this.#start(request));
  }

  /** Opens idle connections, and resolves when all of them are held. */
  async hold(connections: number): Promise<{ release(): Promise<LoadResult> }> {
    const program = this.#start({ work: 'idle', connections });
    await program.line((line) => line.startsWith('{"type":"held"'));
    return {
      release: () => {
        program.endInput();
        return resultOf(program);
      },
    };
  }

  #start(request: Request): Program {
    const args = ['--to', `127.0.0.1:${this.#port}`, '--from', this.#source()];
    for (const [name, value] of Object.entries(request)) args.push(`--${name}`, String(value));
    const program = this.#stage.run(this.#path, args);
    if (request.work !== 'idle') program.endInput();
    return program;
  }

  /** An eighth of the addresses further on each time, since connections of the last time are still in TIME_WAIT. */
  #source(): string {
    const second = 1 + 16 * (this.#firstSource++ % 8);
    return `127.${second}.0.0`;
  }
}

async function resultOf(program: Program): Promise<LoadResult> {
  const result = JSON.parse(await program.line((line) => line.startsWith('{"type":"result"'))) as LoadResult;
  await program.exit;
  return result;
}
