// Stage: the processes of one trial. All of them end with it, by their ids, however it ends, and nothing else does.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

import { startOf, treeOf } from './proc.js';

/** For 64 workers on two busy cores. */
const READY_TIMEOUT_MS = 60_000;

const END_TIMEOUT_MS = 10_000;

/** Lines of its standard error that are told when a process fails. */
const TOLD_LINES = 8;

export interface StartOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** What the process has as its descriptors 3, 4 and so on. They are lent. */
  readonly descriptors?: readonly number[];
}

export interface Program {
  /** @throws {Error} when it could not be started */
  readonly pid: number;
  endInput(): void;
  /** As Ctrl-C does. */
  interrupt(): void;
  /** The exit code, or the signal's name, or why it could not be started; known when its output is read. Never fails. */
  readonly exit: Promise<number | string>;
  /** Passes over the lines that it prints until one fits. @throws {Error} when the program ends without it */
  line(fits: (line: string) => boolean): Promise<string>;
}

/** What processes say on standard output when they serve: workers with their ids, and whoever knows it the port. */
interface ReadyLine {
  readonly type: 'ready';
  readonly worker?: number;
  readonly pid?: number;
  readonly port?: number;
}

export interface ReadyWorker {
  readonly number: number;
  readonly pid: number;
  /** Where it listens; undefined of a worker that does not know. */
  readonly port: number | undefined;
}

export interface Ready {
  readonly workers: readonly ReadyWorker[];
  /** What was told last. */
  readonly port: number | undefined;
}

const open = new Set<Stage>();

// Behind an error that nobody caught, and behind the signals below, too.
process.on('exit', () => {
  for (const stage of open) stage.kill();
});

/** Ends the stages, and then this process, when somebody wants it to end. */
export function endAtSignals(): void {
  for (const [signal, number] of [
    ['SIGINT', 2],
    ['SIGTERM', 15],
    ['SIGHUP', 1],
  ] as const) {
    process.once(signal, () => process.exit(128 + number));
  }
}

export class Stage implements AsyncDisposable {
  /** For sockets and files, with a short name, since a socket's path has at most 107 bytes. */
  readonly directory = mkdtempSync(join(tmpdir(), 'passfd-bench-'));
  readonly #environment: NodeJS.ProcessEnv;
  readonly #children: ChildProcess[] = [];
  readonly #workers = new Map<number, ReadyWorker & Process>();
  #port: number | undefined;
  #failure: Error | undefined;
  #wake: () => void = () => undefined;

  /** @param environment what every process gets, by the directory */
  constructor(environment: (directory: string) => NodeJS.ProcessEnv = () => ({})) {
    this.#environment = environment(this.directory);
    open.add(this);
  }

  /** Starts a process that is there to the end of the trial: the trial fails when it ends before. */
  start(command: string, args: readonly string[], options: StartOptions = {}): Program {
    return this.#spawn(command, args, options, (error) => {
      this.#failure ??= error;
      this.#wake();
    });
  }

  /** Starts a process that may end. */
  run(command: string, args: readonly string[], options: StartOptions = {}): Program {
    return this.#spawn(command, args, options, () => undefined);
  }

  /**
   * Waits until so many workers serve.
   * @param needsPort until somebody has told the port, too
   * @throws {Error}
   */
  async ready(workers: number, needsPort = false): Promise<Ready> {
    const deadline = setTimeout(() => {
      this.#failure ??= new Error(`Only ${this.#workers.size} of ${workers} workers were ready in time`);
      this.#wake();
    }, READY_TIMEOUT_MS);
    try {
      for (;;) {
        this.check();
        if (this.#workers.size >= workers && !(needsPort && this.#port === undefined)) {
          return { workers: [...this.#workers.values()], port: this.#port };
        }
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      clearTimeout(deadline);
    }
  }

  /** @throws {Error} when a process has ended that should be there */
  check(): void {
    if (this.#failure) throw this.#failure;
    for (const [number, { pid, start }] of this.#workers) {
      // One that was started in its place would be measured as nobody.
      if (startOf(pid) !== start) throw new Error(`Worker ${number}, process ${pid}, has ended`);
    }
  }

  /** Ends everything, and waits until it is gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    const running = this.#children.filter(isRunning).map((child) => once(child, 'exit'));
    const killed = this.kill();
    await Promise.all(running);
    const deadline = performance.now() + END_TIMEOUT_MS;
    for (const { pid, start } of killed) {
      // The end of a process that is no child of this one is told to nobody here.
      while (startOf(pid) === start) {
        if (performance.now() > deadline) throw new Error(`Process ${pid} does not end`);
        await sleep(2);
      }
    }
  }

  /** Ends everything, and does not wait. */
  kill(): readonly Process[] {
    open.delete(this);
    // Parents first, since some of them start a child again that ends.
    const trees = this.#children.filter(isRunning).flatMap(({ pid = 0 }) => treeOf(pid));
    const processes = new Map(trees.map((pid) => [pid, startOf(pid)]));
    for (const { pid, start } of this.#workers.values()) {
      if (startOf(pid) === start) processes.set(pid, start);
    }
    const killed: Process[] = [];
    for (const [pid, start] of processes) {
      if (start === undefined) continue;
      killed.push({ pid, start });
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has ended meanwhile.
      }
    }
    rmSync(this.directory, { recursive: true, force: true });
    return killed;
  }

  #spawn(
    command: string,
    args: readonly string[],
    { env, descriptors = [] }: StartOptions,
    onEnd: (error: Error) => void,
  ): Program {
    const child = spawn(command, args, {
      env: { ...process.env, ...this.#environment, ...env },
      stdio: ['pipe', 'pipe', 'pipe', ...descriptors],
      // A terminal's Ctrl-C is for the benchmark, which then ends what it has started.
      detached: true,
    });
    this.#children.push(child);
    return new ChildProgram(child, {
      onLine: (line) => {
        this.#hear(line);
      },
      onEnd,
    });
  }

  #hear(line: string): void {
    if (!/^\{"type": ?"ready"/.test(line)) return;
    const { worker: number, pid, port } = JSON.parse(line) as ReadyLine;
    if (number !== undefined && pid !== undefined) {
      this.#workers.set(number, { number, pid, port, start: startOf(pid) });
    }
    this.#port = port ?? this.#port;
    this.#wake();
  }
}

/** A process, and what tells it from a later one with the same number. */
interface Process {
  readonly pid: number;
  readonly start: string | undefined;
}

interface Hearer {
  readonly onLine: (line: string) => void;
  readonly onEnd: (error: Error) => void;
}

class ChildProgram implements Program {
  readonly #child: ChildProcess;
  readonly exit: Promise<number | string>;
  readonly #lines: string[] = [];
  #isOver = false;
  #wake: () => void = () => undefined;

  constructor(child: ChildProcess, { onLine, onEnd }: Hearer) {
    this.#child = child;
    // It may have ended when it is told something; its exit says so.
    child.stdin?.on('error', () => undefined);
    for (const output of [child.stdout, child.stderr]) {
      if (!output) continue;
      createInterface({ input: output }).on('line', (line) => {
        this.#lines.push(line);
        if (output === child.stdout) onLine(line);
        this.#wake();
      });
    }
    this.exit = new Promise((resolve) => {
      const end = (how: number | string): void => {
        this.#isOver = true;
        resolve(how);
        onEnd(this.#ended(how));
        this.#wake();
      };
      child.once('error', ({ message }) => {
        end(message);
      });
      child.once('close', (code, signal) => {
        end(code ?? signal ?? 'unknown');
      });
    });
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error(`${this.#child.spawnfile} could not be started`);
    return this.#child.pid;
  }

  endInput(): void {
    this.#child.stdin?.end();
  }

  interrupt(): void {
    this.#child.kill('SIGINT');
  }

  async line(fits: (line: string) => boolean): Promise<string> {
    for (let next = 0; ; next++) {
      while (next >= this.#lines.length) {
        if (this.#isOver) throw this.#ended(await this.exit);
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
      const line = this.#lines[next] ?? '';
      if (fits(line)) return line;
    }
  }

  #ended(how: number | string): Error {
    const command = this.#child.spawnargs.map((arg) => basename(arg)).join(' ');
    return new Error([`${command} ended: ${how}`, ...this.#lines.slice(-TOLD_LINES)].join('\n'));
  }
}

function isRunning({ pid, exitCode, signalCode }: ChildProcess): boolean {
  return pid !== undefined && exitCode === null && signalCode === null;
}
