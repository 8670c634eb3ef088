// A service whose app opens and closes what a test says, and that is restarted with another version of it.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { get, type RequestOptions } from 'node:http';
import { connect, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';

import { listen } from '../../src/fd/index.js';
import { temporaryDirectory } from './files.js';
import { app, passfd, statusOf } from './passfd.js';
import { withPrograms, type Program } from './program.js';

export type Place = { readonly host: string; readonly port: number } | { readonly path: string };

/** What the app `opens.js` does, one after the other. */
export type Step =
  | { readonly do: 'listen' | 'choose'; readonly name: string; readonly at: Place }
  | { readonly do: 'probe'; readonly at: Place }
  | { readonly do: 'close'; readonly name: string }
  | { readonly do: 'await'; readonly file: string }
  /** With code 0, and its servers as they are. */
  | { readonly do: 'exit' }
  | { readonly do: 'throw'; readonly text: string };

/** Who has answered no request by then does not answer it. */
const NO_ANSWER_MS = 20_000;

/** Several processes are started one after the other. */
const DEADLINE_MS = 300_000;

export interface Answer {
  readonly name: string;
  readonly pid: number;
  readonly release: string;
}

/** Ports that were free a moment ago, at an address of this machine that nobody else has. */
export class Ports {
  readonly host = `127.${1 + (process.pid % 250)}.${1 + (Date.now() % 250)}.${1 + Math.floor(Math.random() * 250)}`;

  async free(): Promise<{ readonly host: string; readonly port: number }> {
    await using acceptor = await listen({ host: this.host, port: 0 });
    const { address } = acceptor;
    assert.ok('port' in address);
    return address;
  }
}

export class OpeningService {
  readonly directory: string;
  readonly control: string;
  /** A file that steps can await. */
  readonly gate: string;
  readonly #run: (...words: readonly string[]) => Program;
  readonly #flags: readonly string[];
  #program: Program | undefined;
  #isStopping = false;

  constructor(directory: string, flags: readonly string[], run: (...words: readonly string[]) => Program) {
    this.directory = directory;
    this.control = `${directory}/control`;
    this.gate = `${directory}/gate`;
    this.#flags = flags;
    this.#run = run;
  }

  get program(): Program {
    assert.ok(this.#program, 'the service was started');
    return this.#program;
  }

  /** What processes do that are started from here on. */
  setVersion(release: string, steps: readonly Step[]): void {
    writeFileSync(`${this.directory}/steps`, JSON.stringify(steps));
    writeFileSync(`${this.directory}/variables`, `RELEASE=${release}\nSTEPS=${this.directory}/steps\n`);
  }

  openGate(): void {
    writeFileSync(this.gate, '');
  }

  /** @param words more words of the app */
  start(...words: readonly string[]): void {
    const { directory, control } = this;
    const flags = ['--control', control, '--worker-env-file', `${directory}/variables`, ...this.#flags];
    this.#program = this.#run('run', ...flags, app('opens.js'), ...words);
  }

  restart(...words: readonly string[]): Program {
    return this.#run('restart', '--control', this.control, ...words);
  }

  takeover(): Program {
    return this.#run('takeover', '--control', this.control);
  }

  /** Processes of the workers, when there are so many, and all are ready. */
  async workers(count: number): Promise<number[]> {
    for (;;) {
      const { workers } = await statusOf(this.control).catch(() => ({ workers: [] }));
      const ready = workers.filter(({ state }) => state === 'ready');
      if (ready.length === count && workers.length === count) return ready.map(({ pid }) => pid);
    }
  }

  /** Where the dispatcher listens. */
  async addresses(): Promise<string[]> {
    return (await statusOf(this.control)).listeners.map(({ address }) => address).sort();
  }

  async stop(): Promise<void> {
    if (!this.#isStopping) this.program.signal('SIGTERM');
    this.#isStopping = true;
    assert.equal(await this.program.exit, 0);
  }
}

/** The body of a test with a service whose app is `opens.js`; the test starts it. */
export function withOpeningService(
  flags: readonly string[],
  body: (service: OpeningService) => Promise<void>,
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const service = new OpeningService(directory.path, flags, (...words) => start(...passfd(...words)));
    await body(service);
    await service.stop();
  }, DEADLINE_MS);
}

/** A client that has not asked yet. @throws a system error where it is refused */
export async function connectTo(place: Place): Promise<Socket> {
  const socket = connect(place);
  await once(socket, 'connect');
  return socket;
}

/** @param client one that is connected there already */
export async function ask(place: Place, client?: Socket): Promise<Answer> {
  const target: RequestOptions = {
    ...('path' in place ? { socketPath: place.path } : place),
    // An agent would make a connection of its own.
    ...(client ? { createConnection: () => client } : { agent: false }),
  };
  const answer = await new Promise<string>((resolve, reject) => {
    const request = get({ ...target, timeout: NO_ANSWER_MS }, (response) => {
      text(response).then(resolve, reject);
    });
    request.on('timeout', () => request.destroy(new Error('Nobody answers')));
    request.on('error', reject);
  });
  const [name = '', pid = '', release = ''] = answer.split(' ');
  return { name, pid: Number(pid), release };
}
