// Program: a command in a process of its own, known by the lines that it prints and by how it ends.
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { STUCK_AFTER_MS } from './deadline.js';
import { keepsDescriptors } from './descriptors.js';
import { removingDirectoriesAfter } from './files.js';

export interface ProgramOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** What the program has as its descriptors 3, 4 and so on. They are lent. */
  readonly descriptors?: readonly number[];
  /** In a process group of its own, as a terminal starts a command: `signalGroup` is its Ctrl-C. */
  readonly ownGroup?: boolean;
}

/** Starts a program that ends with the test; one that may leave a child behind needs its own group for that. */
export type Start = (command: string, args: readonly string[], options?: ProgramOptions) => Program;

/**
 * The body of a test that starts programs: no process and no descriptor is left behind it, however it ends. The programs
 * of a test that is stuck are killed, so that it fails and says what they printed.
 */
export function withPrograms(
  body: (start: Start) => Promise<void>,
  deadlineMs = STUCK_AFTER_MS,
): () => Promise<void> {
  return keepsDescriptors(async () => {
    const programs: Program[] = [];
    const killAll = (): void => {
      for (const program of programs) program.kill();
    };
    const deadline = setTimeout(killAll, deadlineMs);
    const start: Start = (...command) => {
      const program = new Program(...command);
      programs.push(program);
      return program;
    };
    // A service that runs makes its files anew when somebody removes them.
    await removingDirectoriesAfter(
      () => body(start),
      async () => {
        clearTimeout(deadline);
        killAll();
        await Promise.all(programs.map(({ exit }) => exit));
      },
    );
  });
}

export class Program {
  readonly #process: ChildProcess;
  readonly #ownGroup: boolean;
  readonly #stderr: Promise<string>;
  /** Every line of its standard error so far. */
  readonly errorLines: string[] = [];
  /** Every line of its standard output so far. */
  readonly lines: string[] = [];
  /** Lines before this one were awaited already. */
  #next = 0;
  #wake: (() => void)[] = [];
  #isOver = false;
  /** The exit code, or the name of the signal that ended it; known when nobody holds its output any more. */
  readonly exit: Promise<number | string>;
  /** The same, known as soon as the process itself has ended: its children may live on with its output. */
  readonly ended: Promise<number | string>;

  constructor(command: string, args: readonly string[], options: ProgramOptions = {}) {
    const { env, cwd, descriptors = [], ownGroup = false } = options;
    this.#ownGroup = ownGroup;
    this.#process = spawn(command, args, {
      env: { ...process.env, ...env },
      cwd,
      stdio: ['pipe', 'pipe', 'pipe', ...descriptors],
      detached: ownGroup,
    });
    const { stdin, stdout, stderr } = this.#process;
    if (!stdin || !stdout || !stderr) throw new Error('The program has no pipes');
    // It may have ended when it is told something; how it ended is for the test to see.
    stdin.on('error', () => undefined);
    this.#stderr = new Promise((resolve) => {
      let said = '';
      stderr.setEncoding('utf8').on('data', (part: string) => (said += part));
      stderr.on('close', () => {
        resolve(said);
      });
    });
    createInterface({ input: stderr }).on('line', (line) => {
      this.errorLines.push(line);
      this.#notify();
    });
    createInterface({ input: stdout }).on('line', (line) => {
      this.lines.push(line);
      this.#notify();
    });
    this.ended = once(this.#process, 'exit').then(([code, signal]) => (code ?? signal) as number | string);
    this.exit = once(this.#process, 'close').then(([code, signal]) => {
      this.#isOver = true;
      this.#notify();
      return (code ?? signal) as number | string;
    });
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  /** What it wrote to its standard error, when it has ended. */
  get stderr(): Promise<string> {
    return this.#stderr;
  }

  /** Waits for the next line that matches, and passes over those before it. */
  async line(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const line = this.lines[this.#next];
      if (line === undefined) {
        if (this.#isOver) throw await this.#withoutLine(pattern);
        await new Promise<void>((resolve) => this.#wake.push(resolve));
        continue;
      }
      this.#next++;
      const match = pattern.exec(line);
      if (match) return match;
    }
  }

  /** Waits for a line of its standard error that matches, from the first one on. */
  async errorLine(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      for (const line of this.errorLines) {
        const match = pattern.exec(line);
        if (match) return match;
      }
      if (this.#isOver) throw await this.#withoutLine(pattern);
      await new Promise<void>((resolve) => this.#wake.push(resolve));
    }
  }

  /** Tells it a line on its standard input. */
  say(line: string): void {
    this.#process.stdin?.write(`${line}\n`);
  }

  /** Ends its standard input. */
  endInput(): void {
    this.#process.stdin?.end();
  }

  signal(name: NodeJS.Signals): void {
    this.#process.kill(name);
  }

  /** Sends a signal as a terminal does: to every process of its group. */
  signalGroup(name: NodeJS.Signals): void {
    process.kill(-this.pid, name);
  }

  /** Ends it now, with its group if it has one. A second call, or one after its end, does nothing. */
  kill(): void {
    if (this.#isOver) return;
    if (this.#ownGroup && this.#process.pid !== undefined) {
      try {
        this.signalGroup('SIGKILL');
        return;
      } catch {
        // The group has ended meanwhile.
      }
    }
    this.#process.kill('SIGKILL');
  }

  #notify(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }

  async #withoutLine(pattern: RegExp): Promise<Error> {
    const command = this.#process.spawnargs.join(' ');
    const output = [...this.lines, await this.#stderr].join('\n');
    return new Error(`${command} ended with ${await this.exit} and without ${String(pattern)}:\n${output}`);
  }
}

/** The command that runs an example, as a user does. */
export function example(...args: readonly string[]): [command: string, args: string[]] {
  return [process.execPath, [fileURLToPath(new URL('../../examples/run.js', import.meta.url)), ...args]];
}

/** The process id of the one child that a program has started. */
export function childOf({ pid }: Program): number {
  const [child = '', ...others] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ');
  assert.ok(child !== '' && others.length === 0, `one child, not: ${child} ${others.join(' ')}`);
  return Number(child);
}
