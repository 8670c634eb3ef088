// The takeover of a service, from both sides: a generation hands over to the next one, or takes over from the one before.
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';

import { version, type ControlOptions, type Dispatcher } from '../dispatcher/index.js';
import { awaitGo, handOver, TAKEOVER_FORMAT, takeOver, takeoverError } from '../dispatcher/internal.js';
import { closeAll, PassfdError } from '../fd/index.js';
import { traceStep } from '../handoff/index.js';
import type { Supervisor } from '../supervisor/index.js';
import type { SlotSnapshot } from '../supervisor/internal.js';
import type { Notifier } from '../systemd/index.js';
import type { Life } from './life.js';
import type { Descent } from './generation.js';
import type { Lineage, NextGeneration } from './lineage.js';
import { ofError } from './log-events.js';
import type { Log } from './log.js';
import { attachmentOf, slotSnapshotIn } from './slot-snapshots.js';
import type { Roster } from './roster.js';
import { SAME_REQUEST_MS, type Signals } from './signals.js';

/** The parts of a service that its predecessor hands over, or that its successor fills. */
export interface TakeoverParts {
  readonly dispatcher: Dispatcher;
  readonly supervisor: Supervisor | undefined;
  readonly roster: Roster;
  readonly lineage: Lineage;
  readonly life: Life;
  readonly signals: Signals;
  readonly notifier: Notifier;
  readonly log: Log;
  readonly readyTimeoutMs: number;
  /** Whether a signal asked for a restart that has not begun. */
  readonly isRestartSignalled: () => boolean;
}

/** The generation that has taken over. */
interface HandedOver {
  readonly generation: number;
  readonly pid: number;
}

/** The present generation's side. */
export class TakeoverSession {
  readonly #parts: TakeoverParts;
  #running: Promise<unknown> | undefined;
  #successor: NextGeneration | undefined;
  /** A next generation that has not said hello: the end of this generation kills it. */
  #unready: NextGeneration | undefined;

  constructor(parts: TakeoverParts) {
    this.#parts = parts;
    const killUnready = (): void => this.#unready?.signal('SIGKILL');
    parts.life.ended.then(killUnready, killUnready);
  }

  get isRunning(): boolean {
    return this.#running !== undefined;
  }

  /** Whether the next generation is the dispatcher now. */
  get hasHandedOver(): boolean {
    return this.#successor !== undefined;
  }

  /** Resolves when no takeover runs. */
  async settled(): Promise<void> {
    while (this.#running) await this.#running.catch(() => undefined);
  }

  /**
   * Starts the next generation and hands everything over to it.
   * @throws {PassfdError} `ERR_TAKEOVER` says why not, and the log too; then this generation goes on
   */
  async handOver(progress: (text: string) => void = () => undefined): Promise<HandedOver> {
    try {
      return await this.#handOver(progress);
    } catch (error) {
      this.#parts.log.error(ofError(error), 'takeover failed');
      throw error;
    }
  }

  /** After `handOver`: closes what the next generation has. @returns the exit code, when this process may exit */
  async finish(): Promise<number> {
    const { dispatcher, supervisor, lineage, notifier, signals } = this.#parts;
    if (!this.#successor) throw new TypeError('Nothing was handed over');
    // The command that asked for the takeover gets its answer first.
    await setImmediate();
    const over = lineage.handOn(this.#successor, (receiver) => {
      signals.passOnTo(receiver);
    });
    await supervisor?.disown();
    await dispatcher.disown();
    await notifier.barrier();
    return over;
  }

  async #handOver(progress: (text: string) => void): Promise<HandedOver> {
    const { life, roster, dispatcher, log } = this.#parts;
    if (life.isEnding) throw new PassfdError('ERR_TAKEOVER', 'This generation is ending');
    if (!roster.isOpen) {
      throw new PassfdError('ERR_TAKEOVER', 'This generation is still starting, and does not listen yet');
    }
    if (this.#running) throw new PassfdError('ERR_TAKEOVER', 'Another takeover is running');
    const running = this.#startNext(progress);
    this.#running = running;
    try {
      const { pid } = await running;
      const generation = dispatcher.status().generation + 1;
      log.info({ generation, pid }, 'handed over');
      life.end({ is: 'handed-over' });
      return { generation, pid };
    } finally {
      this.#running = undefined;
    }
  }

  async #startNext(progress: (text: string) => void): Promise<NextGeneration> {
    const { lineage, roster, life, signals, readyTimeoutMs, isRestartSignalled } = this.#parts;
    const next = await lineage.next(readyTimeoutMs);
    progress(`the new generation is process ${next.pid}`);
    traceStep('successor-started');
    await this.#handOverTo(next);
    // The next generation joined the journal before it got `go`.
    roster.close();
    this.#successor = next;
    // Requests that this generation got and did not carry out go to the next one.
    if (life.isStopping) next.signal('SIGTERM');
    if (signals.isStoppedAtOnce) {
      // Later than SAME_REQUEST_MS, so that it counts as a second request. Another signal than the first, because the
      // kernel merges two pending signals of one kind.
      await sleep(2 * SAME_REQUEST_MS);
      next.signal('SIGINT');
    }
    if (isRestartSignalled()) next.signal('SIGHUP');
    signals.passOnTo(next.signal);
    return next;
  }

  async #handOverTo(next: NextGeneration): Promise<void> {
    const { supervisor, roster } = this.#parts;
    try {
      await this.#awaitHello(next);
      await supervisor?.freeze();
      roster.freeze();
      try {
        await this.#sendAll(next);
      } catch (error) {
        roster.thaw();
        supervisor?.thaw();
        throw error;
      }
    } catch (error) {
      next.signal('SIGKILL');
      throw takeoverError(error);
    } finally {
      next.channel[Symbol.dispose]();
    }
  }

  async #sendAll({ channel, signal }: NextGeneration): Promise<void> {
    const { dispatcher, supervisor, signals } = this.#parts;
    const kill = (): void => {
      signal('SIGKILL');
    };
    const attachments = (supervisor?.snapshot() ?? []).map(attachmentOf);
    try {
      const stoppingForMs = (): number | undefined => signals.stoppingForMs;
      await handOver(dispatcher, { channel, kill, stoppingForMs }, attachments);
    } finally {
      closeAll(attachments.flatMap(({ descriptors }) => descriptors));
    }
  }

  /** Resolves when the next generation has loaded its code and checked its arguments. An end of this one kills it. */
  async #awaitHello(next: NextGeneration): Promise<void> {
    const { life, readyTimeoutMs } = this.#parts;
    const late = new AbortController();
    const timer = setTimeout(() => {
      late.abort();
      next.signal('SIGKILL');
    }, readyTimeoutMs);
    this.#unready = next;
    try {
      const received = await next.channel.receive();
      if (received?.message.type === 'hello') return;
      throw new PassfdError(
        'ERR_TAKEOVER',
        late.signal.aborted
          ? `The new generation was not ready within ${readyTimeoutMs} ms (--ready-timeout), and was killed`
          : life.isEnding
            ? 'The service is stopping, so the new generation, which was not ready, was killed'
            : 'The new generation exited before it was ready; its output says why',
      );
    } finally {
      this.#unready = undefined;
      clearTimeout(timer);
    }
  }
}

/**
 * The next generation's side: takes everything over from the predecessor.
 * @returns what the slots of the predecessor's supervisor hold; the caller owns the descriptors
 * @throws {PassfdError} `ERR_TAKEOVER`; then everything still belongs to the predecessor
 */
export async function takeOverFrom(
  { predecessor }: Descent,
  { dispatcher, roster, signals, log }: Pick<TakeoverParts, 'dispatcher' | 'roster' | 'signals' | 'log'>,
  options: ControlOptions,
): Promise<SlotSnapshot[]> {
  await predecessor.send({ type: 'hello', version, format: TAKEOVER_FORMAT, pid: process.pid });
  traceStep('hello-said');
  let snapshots: SlotSnapshot[];
  roster.join();
  try {
    const attachments = await takeOver(dispatcher, predecessor, options);
    snapshots = attachments.map(slotSnapshotIn);
    const { stoppingForMs } = await awaitGo(predecessor);
    if (stoppingForMs !== undefined) signals.expectRequest(stoppingForMs);
  } catch (error) {
    await dispatcher.disown();
    throw error;
  } finally {
    predecessor[Symbol.dispose]();
  }
  dispatcher.thaw();
  const { generation } = dispatcher.status();
  log.info({ generation, workers: dispatcher.workers.length }, 'took over');
  return snapshots;
}

/** Reports to the process that started this generation that it serves. A service manager is notified first. */
export async function reportStarted({ origin }: Descent, notifier: Notifier): Promise<void> {
  notifier.mainPid(process.pid);
  await notifier.barrier();
  await origin.send({ type: 'started' });
  if (notifier.isActive) origin[Symbol.dispose]();
}
