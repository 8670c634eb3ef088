// A dispatcher in this process, its workers and its clients, for tests that look at it from both sides.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';

import {
  Dispatcher,
  type ControlOptions,
  type DispatcherEvents,
  type DispatcherOptions,
} from '../../src/dispatcher/index.js';
import type { Clock } from '../../src/dispatcher/clock.js';
import { connect, type Address, type PassfdError, type StreamSocket } from '../../src/fd/index.js';
import { STUCK_AFTER_MS } from './deadline.js';
import { keepsDescriptors } from './descriptors.js';
import { FakeWorker, type FakeWorkerOptions } from './fake-worker.js';
import { temporaryDirectory } from './files.js';
import { HeldIntervals } from './held-intervals.js';
import { turns } from './loop.js';

export interface StageOptions extends DispatcherOptions {
  /** The system's unless it is given. */
  readonly clock?: Clock;
  readonly control?: ControlOptions;
}

export class Stage {
  readonly dispatcher: Dispatcher;
  /** A directory of its own. */
  readonly directory: string;
  readonly control: string;
  /** Of every peer that was refused. */
  readonly refusedPeers: PassfdError[] = [];
  readonly warnings: unknown[] = [];
  /** Workers are looked at when a test says so: it may take long to have one answer. */
  readonly looks: HeldIntervals;
  readonly #owned: Disposable[] = [];
  #address: Address | undefined;
  #isOver = false;

  constructor(dispatcher: Dispatcher, directory: string, looks: HeldIntervals) {
    this.dispatcher = dispatcher;
    this.looks = looks;
    this.directory = directory;
    this.control = `${directory}/control`;
    dispatcher.on('peerRefused', (error) => this.refusedPeers.push(error));
    dispatcher.on('warned', (error) => this.warnings.push(error));
  }

  /** Where the dispatcher accepts for all workers that serve; from the first call on. */
  async address(): Promise<Address> {
    this.#address ??= await this.dispatcher.listen({ host: '127.0.0.1', port: 0 });
    return this.#address;
  }

  /** A worker that was welcomed. */
  async join(options: FakeWorkerOptions = {}): Promise<FakeWorker> {
    return this.own(await FakeWorker.join(this.control, options));
  }

  /** A worker that takes the connections of `address`. */
  async joinServing(options: FakeWorkerOptions = {}): Promise<FakeWorker> {
    await this.address();
    const ready = this.next('ready');
    const worker = await this.join(options);
    await worker.serve();
    await ready;
    return worker;
  }

  /** A client that is connected, wherever its connection is by then. */
  async client(address?: Address): Promise<StreamSocket> {
    return this.own(await connect(address ?? (await this.address())));
  }

  async clients(count: number, address?: Address): Promise<StreamSocket[]> {
    const clients: StreamSocket[] = [];
    // One after the other, so that they are accepted in this order.
    while (clients.length < count) clients.push(await this.client(address));
    return clients;
  }

  /** Closes it when the test is over. */
  own<T extends Disposable>(resource: T): T {
    this.#owned.push(resource);
    return resource;
  }

  /** What the dispatcher's next event of this name tells. */
  async next<Name extends keyof DispatcherEvents>(name: Name): Promise<DispatcherEvents[Name]> {
    return (await once(this.dispatcher, name)) as DispatcherEvents[Name];
  }

  /** Waits until a fact holds that no event tells. */
  async until(fact: () => boolean): Promise<void> {
    while (!this.#isOver && !fact()) await turns(1);
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await this.dispatcher.close();
    for (const resource of this.#owned.splice(0)) resource[Symbol.dispose]();
  }
}

/** The body of a test with a dispatcher whose control socket is open; nothing of it is left behind. */
export function onStage(options: StageOptions, body: (stage: Stage) => Promise<void>): () => Promise<void> {
  return keepsDescriptors(async () => {
    const { control, clock, ...dispatcherOptions } = options;
    await using directory = await temporaryDirectory();
    using looks = new HeldIntervals();
    const stage = new Stage(new Dispatcher(dispatcherOptions, clock), directory.path, looks);
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(new Error(`The test is stuck at ${JSON.stringify(stage.dispatcher.status())}`));
      }, STUCK_AFTER_MS);
    });
    try {
      await stage.dispatcher.openControl(stage.control, control);
      await Promise.race([body(stage), deadline]);
      await stage.end();
      assert.deepEqual(stage.warnings, []);
    } finally {
      clearTimeout(timer);
      await stage.end();
    }
  });
}

/** Connections that wait in the kernel at a listening IPv4 address of this machine (proc(5), `/proc/net/tcp`). */
export function backlogOf(address: Address): number {
  assert.ok('port' in address);
  const LISTEN = '0A';
  const port = address.port.toString(16).toUpperCase().padStart(4, '0');
  for (const line of readFileSync('/proc/net/tcp', 'utf8').split('\n').slice(1)) {
    const [, local = '', , state, queues = ''] = line.trim().split(/\s+/);
    if (state === LISTEN && local.endsWith(`:${port}`)) return parseInt(queues.split(':')[1] ?? '', 16);
  }
  throw new Error(`Nobody listens at port ${address.port}`);
}
