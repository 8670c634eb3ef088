// Child: a fixture in a process of its own, which has the other end of `channel` as its descriptor 3.
import { spawn, type ChildProcess } from 'node:child_process';
import { on, once } from 'node:events';
import { fileURLToPath } from 'node:url';

import { socketPair, type StreamSocket } from '../../src/fd/index.js';

export interface ChildOptions {
  /** What the fixture finds in `process.argv`, from index 2. */
  readonly args?: readonly string[];
  /** For Node itself, as `--expose-gc`. */
  readonly nodeArgs?: readonly string[];
  /** `ulimit -n`, the hard limit too: Node raises the soft one to it. */
  readonly descriptorLimit?: number;
}

export class Child implements AsyncDisposable {
  readonly channel: StreamSocket;
  readonly #process: ChildProcess;
  readonly #reports: AsyncIterator<unknown[], undefined>;
  /** The exit code, or the name of the signal that ended it. */
  readonly exit: Promise<number | string>;

  /** @param fixture name of a file in `test/process/fixtures` */
  constructor(fixture: string, options: ChildOptions = {}) {
    const [here, there] = socketPair();
    const path = fileURLToPath(new URL(`../process/fixtures/${fixture}.js`, import.meta.url));
    const command = [process.execPath, ...(options.nodeArgs ?? []), path, ...(options.args ?? [])];
    const limit = String(options.descriptorLimit ?? 'unlimited');
    const [program = '', ...args] =
      options.descriptorLimit === undefined
        ? command
        : ['/bin/sh', '-c', 'ulimit -n "$0" && exec "$@"', limit, ...command];
    this.channel = here;
    this.#process = spawn(program, args, {
      // A thread of Node's own would read these certificates, and have a descriptor open meanwhile.
      env: { ...process.env, NODE_EXTRA_CA_CERTS: undefined },
      stdio: ['ignore', 'inherit', 'inherit', there.fd, 'ipc'],
    });
    there.destroy();
    this.#reports = on(this.#process, 'message', { close: ['close'] });
    this.exit = (once(this.#process, 'close') as Promise<[number | null, string]>).then(
      ([code, signal]) => code ?? signal,
    );
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** What the child reports next. */
  async next<T>(): Promise<T> {
    const { value } = await this.#reports.next();
    if (!value) throw new Error(`The child ended with ${await this.exit} and without a report`);
    return value[0] as T;
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.channel.destroy();
    if (this.#process.exitCode === null && this.#process.signalCode === null) this.kill();
    await this.exit;
  }
}
