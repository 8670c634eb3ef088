// Custodian: the listening sockets that a worker keeps for a dispatcher, so that they outlive the dispatcher's process.
import type { Descriptor } from '../../fd/index.js';
import { encodeJson, type CustodyLabel, type TakeGroup } from '../../handoff/index.js';
import type { Listener } from '../listener.js';
import type { Outlet } from './outlet.js';
import type { PassfdWorkerEvents, PassfdWorkerHost } from './passfd-worker-host.js';
import type { PassfdWorker } from './passfd-worker.js';

export interface Custody {
  /** Whether the worker keeps listening sockets. */
  readonly isCustodian: boolean;
  /** Listening sockets that the worker still has to bring, from a dispatcher that died. */
  readonly awaitedCustody: number;
  /** Whether the worker comes from a dispatcher that died, and `returned` was not reported yet. */
  readonly isReturning: boolean;
  /** Ids of listeners whose sockets the worker has, or gets with what another dispatcher left unsent. */
  readonly entrusted: Iterable<number>;
}

export class Custodian {
  readonly isCustodian: boolean;
  readonly #worker: PassfdWorker;
  readonly #outlet: Outlet;
  readonly #events: PassfdWorkerEvents;
  readonly #host: PassfdWorkerHost;
  readonly #entrusted: Set<number>;
  /** Sockets that wait for the channel, by the ids of their listeners. Aborting one takes it back. */
  readonly #sending = new Map<number, Set<AbortController>>();
  #awaited: number;
  #isReturning: boolean;
  #hasBrought = false;

  constructor(
    worker: PassfdWorker,
    outlet: Outlet,
    { isCustodian, awaitedCustody, isReturning, entrusted }: Custody,
    events: PassfdWorkerEvents,
    host: PassfdWorkerHost,
  ) {
    this.#worker = worker;
    this.#outlet = outlet;
    this.#events = events;
    this.#host = host;
    this.isCustodian = isCustodian;
    this.#awaited = awaitedCustody;
    this.#isReturning = isReturning;
    this.#entrusted = new Set(isCustodian ? entrusted : []);
  }

  /** Listening sockets that the worker still has to bring. */
  get awaited(): number {
    return this.#awaited;
  }

  /** Whether the worker has the listening socket, or gets it before anything that is sent from now on. */
  keeps({ id }: Listener): boolean {
    return this.#entrusted.has(id) || this.#sending.has(id);
  }

  /** Reports `returned` when the worker has brought everything. */
  noteReturned(): void {
    if (!this.#isReturning || this.#awaited > 0) return;
    this.#isReturning = false;
    this.#events.returned(this.#worker, this.#hasBrought);
  }

  /** The worker brings one listening socket. */
  async receive(label: CustodyLabel, take: TakeGroup): Promise<void> {
    const group = take(1);
    const [descriptor] = group === 'lost' ? [] : group;
    // This process may have had no descriptor for it. Then another worker brings the same socket, or it is lost.
    if (descriptor) {
      await this.#host.takeCustody(label, descriptor);
      this.#hasBrought = true;
    }
    this.#awaited--;
    this.noteReturned();
  }

  /** Sends the worker a duplicate of a listening socket to keep. @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT` */
  entrust({ id, label, acceptor }: Listener): void {
    if (!this.isCustodian || this.#outlet.isClosed) return;
    const frame = encodeJson({ type: 'custody', listener: id, ...label });
    this.#send(id, frame, acceptor.duplicate()).catch(() => undefined);
  }

  async #send(id: number, frame: Buffer, duplicate: Descriptor): Promise<void> {
    using descriptor = duplicate;
    const unneeded = new AbortController();
    // When the socket of a listener is replaced, the earlier one may still wait for the channel.
    const sending = this.#sending.get(id) ?? new Set();
    this.#sending.set(id, sending.add(unneeded));
    const isSent = await this.#outlet.send(frame, [descriptor], unneeded.signal);
    sending.delete(unneeded);
    if (sending.size === 0 && this.#sending.get(id) === sending) this.#sending.delete(id);
    if (!isSent) return;
    if (unneeded.signal.aborted) this.#release(id);
    else this.#entrusted.add(id);
  }

  /** The worker need not keep a listening socket any more. A socket that waits for the channel is not sent. */
  relieve({ id }: Listener): void {
    for (const unneeded of this.#sending.get(id) ?? []) unneeded.abort();
    this.#sending.delete(id);
    if (this.#entrusted.delete(id)) this.#release(id);
  }

  /** The worker need not keep the listening sockets that it brought and that were not entrusted to it again. */
  relieveOfStale(): void {
    this.#outlet.post(encodeJson({ type: 'release', listeners: [], stale: true }));
  }

  #release(id: number): void {
    this.#outlet.post(encodeJson({ type: 'release', listeners: [id] }));
  }
}
