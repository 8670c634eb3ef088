// A dispatcher whose workers accept by themselves, with looks at their boards when a test says so.
import assert from 'node:assert/strict';

import { Acceptor, type Address } from '../../src/fd/index.js';
import type { WorkerView } from '../../src/dispatcher/index.js';
import { onStage, type Stage, type StageOptions } from './dispatcher-stage.js';
import type { FakeBoard, FakeWorker, FakeWorkerOptions } from './fake-worker.js';
import { turns } from './loop.js';
import { ManualClock } from './manual-clock.js';

/** The longest time between two looks while something happens. */
const LOOK_MS = 50;

export interface Scene {
  readonly stage: Stage;
  readonly clock: ManualClock;
  /** Time for some looks, and then for what they lead to. */
  readonly look: (count?: number) => Promise<void>;
}

export interface DirectWorker {
  readonly worker: FakeWorker;
  readonly board: FakeBoard;
  /** Accepts the clients that wait. @returns how many */
  accept(): number;
}

/** The body of a test with a dispatcher whose workers accept by themselves, and whose looks pass when the test says so. */
export function governed(
  body: (scene: Scene) => Promise<void>,
  options: Omit<StageOptions, 'clock'> = { accept: 'direct' },
): () => Promise<void> {
  const clock = new ManualClock();
  return onStage({ ...options, clock }, (stage) =>
    body({
      stage,
      clock,
      look: async (count = 1) => {
        for (let done = 0; done < count; done++) {
          await turns();
          clock.advance(LOOK_MS);
        }
        await turns();
      },
    }),
  );
}

/** A worker that was told to watch the address of the stage. */
export async function watching(scene: Scene, options: FakeWorkerOptions = {}): Promise<DirectWorker> {
  const { stage } = scene;
  await stage.address();
  const worker = await stage.join({ direct: true, ...options });
  const board = await worker.board();
  const { descriptor } = await worker.entrusted();
  const serving = stage.next('serving');
  await worker.serve();
  await serving;
  await scene.look();
  assert.equal(await worker.told(), '0 on at 0');
  const accept = (): number => {
    const acceptor = new Acceptor(descriptor.duplicate());
    const accepted = acceptor.acceptNow();
    for (const each of accepted) stage.own(each);
    acceptor.release().close();
    return accepted.length;
  };
  return { worker, board, accept };
}

/** A client that nobody accepts: the next look sees it, and each one after that. */
export async function waitingClient({ stage }: Scene, address?: Address): Promise<void> {
  await stage.client(address);
  await turns();
}

export function viewOf({ dispatcher }: Stage, { id }: FakeWorker): WorkerView {
  const view = dispatcher.workers.find((each) => each.id === id);
  assert.ok(view);
  return view;
}
