// How the dispatcher welcomes a worker: the worker's first state, as its hello has it, and the answer.
import { encodeJson, PROTOCOL_VERSION, type WorkerHello } from '../../handoff/index.js';
import { canAcceptDirectly } from '../direct/accept-mode.js';
import type { PassfdWorkerState } from '../succession/worker-state.js';

export type NewWorker = Pick<PassfdWorkerState, 'id' | 'pid' | 'isTrusted'>;

/** A worker that is not trusted keeps no listening sockets, accepts nothing by itself, and was no child. */
export function stateFromHello(
  hello: WorkerHello,
  worker: NewWorker,
): Omit<PassfdWorkerState, 'subscriptions'> {
  const { window, capacity, custody, again, direct, returns } = hello;
  const isCustodian = worker.isTrusted && custody === true;
  return {
    dialect: 'passfd',
    ...worker,
    isCustodian,
    direct: isCustodian && direct === true && canAcceptDirectly,
    knowsAgain: again,
    formerChild: worker.isTrusted ? returns?.child : undefined,
    state: 'starting',
    window,
    capacity,
    carried: returns?.open ?? 0,
    awaitedCustody: returns?.custody ?? 0,
    adopted: 0,
    closed: 0,
    settled: 0,
    partial: Buffer.alloc(0),
  };
}

/** @param serves whether the dispatcher has addresses of its own */
export function encodeWelcome(
  { id, direct }: Pick<PassfdWorkerState, 'id' | 'direct'>,
  serves: boolean,
): Buffer {
  return encodeJson({
    type: 'welcome',
    passfd: PROTOCOL_VERSION,
    id,
    pid: process.pid,
    serves,
    holding: true,
    ...(direct === true && { direct }),
  });
}
