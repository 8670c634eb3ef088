// LoadedService: a service with clients that keep it busy while a test replaces its parts, and what they noticed.
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';

import type { AcceptMode } from './accept-modes.js';
import { backlogOf } from './dispatcher-stage.js';
import { temporaryDirectory } from './files.js';
import { app, passfdAt, statusOf } from './passfd.js';
import { withPrograms, type Program, type Start } from './program.js';

export const WORKERS = 2;

/** How the clients fared. */
export interface Outcome {
  readonly answered: number;
  readonly processes: number;
  readonly failures: Readonly<Record<string, number>>;
}

export class LoadedService {
  readonly start: Start;
  readonly control: string;
  readonly #main: string;
  readonly #flags: readonly string[];
  /** The process that was started last. */
  service: Program;
  port = 0;
  #load: Program | undefined;

  /**
   * @param main the program `passfd`, whose file may be replaced
   * @param flags of `run`, beside those that every service here has
   */
  constructor(start: Start, control: string, main: string, flags: readonly string[] = []) {
    this.start = start;
    this.control = control;
    this.#main = main;
    this.#flags = flags;
    this.service = this.startService();
  }

  /** @param flags instead of those of the first one */
  startService(flags = this.#flags): Program {
    const words = [
      'run',
      '--workers',
      String(WORKERS),
      '--orphan-timeout',
      '60000',
      '--control',
      this.control,
      ...flags,
    ];
    this.service = this.start(...passfdAt(this.#main, ...words, app('process.js')));
    return this.service;
  }

  async begin(): Promise<void> {
    const [, port] = await this.service.line(/^listening (\d+)$/);
    this.port = Number(port);
    await this.untilReady();
    const load = fileURLToPath(new URL('../process/fixtures/http-load.js', import.meta.url));
    this.#load = this.start(process.execPath, [load, String(this.port)]);
    await this.#load.line(/^loading$/);
  }

  async end(): Promise<Outcome> {
    const load = this.#load;
    assert.ok(load);
    load.say('');
    const [outcome] = await load.line(/^\{.*\}$/);
    await load.exit;
    return JSON.parse(outcome) as Outcome;
  }

  async command(name: string): Promise<void> {
    const { code, stderr } = await this.tryCommand(name);
    assert.equal(code, 0, stderr);
  }

  /** A command that may fail. */
  async tryCommand(name: string): Promise<{ readonly code: number | string; readonly stderr: string }> {
    const command = this.start(...passfdAt(this.#main, name, '--control', this.control));
    return { code: await command.exit, stderr: await command.stderr };
  }

  /** Processes of the workers, when all are ready. */
  async untilReady(): Promise<number[]> {
    for (;;) {
      const workers = await statusOf(this.control).then(
        (status) => status.workers.filter(({ state }) => state === 'ready'),
        () => [], // nobody is there yet
      );
      if (workers.length === WORKERS) return workers.map(({ pid }) => pid);
    }
  }

  /** The listening socket of a process: the one that is the same everywhere. */
  async socketOf(pid: number): Promise<string> {
    const sockets = this.start('ss', ['-Hltne']);
    await sockets.exit;
    const inodes = new Set(
      readdirSync(`/proc/${pid}/fd`).map((fd) => {
        try {
          return readlinkSync(`/proc/${pid}/fd/${fd}`);
        } catch {
          return '';
        }
      }),
    );
    const line = sockets.lines.find(
      (one) => one.includes(`:${this.port} `) && inodes.has(`socket:[${/ino:(\d+)/.exec(one)?.[1] ?? ''}]`),
    );
    assert.ok(line, `process ${pid} has the listening socket`);
    // The inode, and the cookie that no other socket of this machine ever has (SO_COOKIE).
    return [/ino:\d+/.exec(line)?.[0], /sk:\w+/.exec(line)?.[0]].join(' ');
  }

  /** A client that comes now is answered. */
  async isAnswered(): Promise<void> {
    const client = connect(this.port, '127.0.0.1');
    client.end('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
    assert.match(await text(client), /process \d+/);
  }

  /** Somebody who has come and whom nobody has accepted: the port that answers later is the same socket. */
  async waitInBacklog(): Promise<void> {
    const { port } = this;
    const client = connect(port, '127.0.0.1');
    await once(client, 'connect');
    while (backlogOf({ host: '127.0.0.1', port }) === 0) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    client.end('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
    // Answered when there is a dispatcher again.
    text(client)
      .then((answer) => {
        assert.match(answer, /process \d+/);
      })
      .catch((error: unknown) => {
        setImmediate(() => {
          throw error;
        });
      });
  }
}

/** The body of a test of a service under load, which stops well after it. */
export function underLoad(
  main: string,
  deadlineMs: number,
  body: (scene: LoadedService) => Promise<void>,
  accept?: AcceptMode,
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const flags = accept === undefined ? [] : ['--accept', accept];
    const scene = new LoadedService(start, `${directory.path}/control`, main, flags);
    await scene.begin();
    await body(scene);
    scene.service.signal('SIGTERM');
    assert.equal(await scene.service.exit, 0);
  }, deadlineMs);
}

export function assertUnnoticed({ answered, failures }: Outcome, atLeast: number): void {
  assert.deepEqual(failures, {});
  assert.ok(answered > atLeast, `${answered} answers`);
  // For the person who reads the output.
  console.log(`${answered} answered, none refused, reset or unanswered`);
}
