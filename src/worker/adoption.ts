// Adoption: takes the connections that come on a channel, and reads no byte of one before ADOPTED is sent.
import { closeAll, type Descriptor } from '../fd/index.js';
import type { SocketIdentity } from '../fd/internal.js';
import {
  encodeAdopted,
  encodeRefused,
  traceStep,
  type Channel,
  type DescriptorGroup,
  type RefusalReason,
  type TakeGroup,
} from '../handoff/index.js';
import type { ClosedReports } from './load-reports.js';
import type { OnClosing } from './node-handles.js';
import type { Target } from './target.js';

/** What adopting connections needs of the worker. */
export interface AdoptionHost {
  /** The server or loop that takes the connections of a listener. */
  targetOf(listener: number): Target | undefined;
  /** Whether the worker adopts nothing new. */
  isDraining(): boolean;
  /** `count` more connections are adopted, or are about to be. `closed` is called once for each of them. */
  opened(count: number): void;
  /**
   * One of these connections is closed here. It counts for the present channel, whichever channel it came on.
   * @param passedOn its identity, where another process may have it open
   */
  closed(passedOn: SocketIdentity | undefined): void;
}

/** Connections that were answered together, or are about to be. */
interface Batch {
  readonly target: Target | undefined;
  readonly descriptors: Descriptor[];
  /** Whether the target already counts them. */
  readonly isExpected: boolean;
}

export class Adoption {
  readonly #channel: Channel;
  readonly #host: AdoptionHost;
  readonly #closedReports: ClosedReports;
  readonly #onClosed: OnClosing = (passedOn) => {
    this.#host.closed(passedOn);
  };
  /** Batches of this turn of the event loop. One ADOPTED answers them all. */
  #adopting: Batch[] = [];
  /** Settles when the last answer was sent or has failed, and with it every earlier one. Never rejects. */
  #answered: Promise<void> = Promise.resolve();
  /** Batches whose answer could not be sent. Their owner is known when the channel has ended. */
  readonly #undecided: Batch[] = [];
  /** Position of the last connection that was answered. */
  #position = 0;
  #isOrphaned = false;

  constructor(channel: Channel, host: AdoptionHost, closedReports: ClosedReports) {
    this.#channel = channel;
    this.#host = host;
    this.#closedReports = closedReports;
  }

  onHandoff(listener: number, count: number, take: TakeGroup): void {
    const group = take(count);
    traceStep('received');
    if (this.#isOrphaned) {
      this.#position += count;
      this.#inherit(listener, group);
      return;
    }
    if (group === 'lost') {
      this.#refuse(count, { target: undefined, descriptors: [], isExpected: false }, 'descriptors');
      return;
    }
    const target = this.#host.targetOf(listener);
    const isDraining = this.#host.isDraining();
    const adopted = target && !isDraining ? group.splice(0, Math.min(target.room, count)) : [];
    if (target && adopted.length > 0) this.#adopt(target, adopted);
    if (group.length === 0) return;
    const reason = isDraining ? 'draining' : target ? 'capacity' : 'not-listening';
    this.#refuse(group.length, { target, descriptors: group, isExpected: false }, reason);
  }

  /** The last will sends this: the dispatcher died while it sent these connections, and they may have arrived before. */
  onHandoffAgain(position: number, listener: number, count: number, take: TakeGroup): void {
    if (position > this.#position) {
      this.onHandoff(listener, count, take);
      return;
    }
    const duplicates = take(count);
    if (duplicates !== 'lost') closeAll(duplicates);
  }

  /** The dispatcher has died. What the last will sends from now on has no other owner, and no process reads an answer. */
  onOrphaned(): void {
    this.#isOrphaned = true;
  }

  /** Sends ADOPTED for everything that has come. The dispatcher has it before this process reads a byte. */
  flush(): void {
    if (this.#adopting.length === 0) return;
    const adopted = this.#adopting;
    this.#adopting = [];
    const frame = encodeAdopted(this.#position);
    const closedReport = this.#closedReports.take();
    const frames = closedReport ? Buffer.concat([frame, closedReport]) : frame;
    this.#answer(frames, adopted, () => {
      traceStep('adopted');
      if (closedReport) traceStep('closed-sent');
      for (const { target, descriptors } of adopted) {
        if (target) for (const descriptor of descriptors) this.#deliver(target, descriptor);
      }
    });
  }

  /**
   * Decides who owns the connections whose answer could not be sent. A dispatcher that lives has copies of them, and gives
   * these to other workers. The copies of a dispatcher that died are gone.
   * @param isAlive whether the dispatcher lives, and keeps what this worker has not adopted
   */
  async end(isAlive: boolean): Promise<void> {
    await this.#answered;
    for (const { target, descriptors, isExpected } of this.#undecided.splice(0)) {
      if (!target || isAlive) {
        if (isExpected) target?.expect(-descriptors.length);
        closeAll(descriptors);
        for (let count = isExpected ? descriptors.length : 0; count > 0; count--) {
          this.#host.closed(undefined);
        }
        continue;
      }
      if (!isExpected) {
        target.expect(descriptors.length);
        this.#host.opened(descriptors.length);
      }
      for (const descriptor of descriptors) this.#deliver(target, descriptor);
    }
  }

  /** Adopts without an answer: no process would read it. */
  #inherit(listener: number, group: DescriptorGroup): void {
    const target = this.#host.targetOf(listener);
    if (group === 'lost') return;
    if (!target) {
      closeAll(group);
      return;
    }
    target.expect(group.length);
    this.#host.opened(group.length);
    for (const descriptor of group) this.#deliver(target, descriptor);
  }

  #adopt(target: Target, descriptors: Descriptor[]): void {
    this.#position += descriptors.length;
    target.expect(descriptors.length);
    // They count as open from here on: a drain may begin in this turn, and must wait for them.
    this.#host.opened(descriptors.length);
    this.#adopting.push({ target, descriptors, isExpected: true });
    if (this.#adopting.length > 1) return;
    // The channel reads in microtasks. So this runs after everything that the channel has now.
    process.nextTick(() => {
      this.flush();
    });
  }

  #refuse(count: number, refused: Batch, reason: RefusalReason): void {
    // Answers go out in the order of the positions.
    this.flush();
    this.#position += count;
    this.#answer(encodeRefused(this.#position, reason), [refused], () => {
      closeAll(refused.descriptors);
      traceStep('refused');
    });
  }

  /** @param done called when the answer is sent. If it cannot be sent, `end` decides */
  #answer(frames: Buffer, answered: readonly Batch[], done: () => void): void {
    this.#answered = this.#channel.post(frames).then(done, () => {
      this.#undecided.push(...answered);
    });
  }

  /** Delivers in a tick of its own. So an exception of the app is an ordinary one, and no other connection suffers from it. */
  #deliver(target: Target, descriptor: Descriptor): void {
    process.nextTick(() => {
      target.deliver(descriptor, this.#onClosed);
      traceStep('delivered');
    });
  }
}
