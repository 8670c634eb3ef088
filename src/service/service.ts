// Service: one generation of a dispatcher with the processes that it has started, from its start, or its takeover, to its end.
import { resolve } from 'node:path';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';

import { Dispatcher, version, type ControlOptions, type WorkerView } from '../dispatcher/index.js';
import { awaitGo, handOver, TAKEOVER_FORMAT, takeOver, takeoverError } from '../dispatcher/internal.js';
import { closeAll, PassfdError, type Address } from '../fd/index.js';
import { OrphanReaper, processIdentity, settleWills } from '../fd/internal.js';
import { prepareControlDirectory, traceStep } from '../handoff/index.js';
import {
  namedDirectory,
  Supervisor,
  type ChildView,
  type Occupant,
  type SupervisorOptions,
} from '../supervisor/index.js';
import { inheritedDescriptors, Notifier, storedName, type InheritedDescriptor } from '../systemd/index.js';
import { resolveListen } from './activation.js';
import { ANY_HOST, type ListenAddress, type WrittenAddress } from './listen-address.js';
import { readAuthkey } from './authkey.js';
import {
  Descendant,
  Origin,
  takeDescent,
  type Descent,
  type Lineage,
  type NextGeneration,
} from './lineage.js';
import { openLog, type Log } from './log.js';
import { logDispatcher, logSupervisor, ofError } from './log-events.js';
import { attachmentOf, occupantIn } from './occupants.js';
import type { ServiceFlags } from './settings.js';
import { FileGuard } from './file-guard.js';
import { fingerprint, type Survivor } from './journal.js';
import { Restarts, type TellProgress } from './restarts.js';
import { Roster } from './roster.js';
import { SAME_REQUEST_MS, Signals, type SignalHandlers } from './signals.js';

/** The processes to start. */
export interface Children {
  readonly command: SupervisorOptions['command'];
  readonly count: number;
}

interface RestartResult {
  readonly restarted: number;
}

/** What begins the end. */
type End =
  | { readonly is: 'signal' | 'request' | 'finished' }
  | { readonly is: 'failed'; readonly error: unknown }
  | { readonly is: 'handed-over' }
  /** The process that has started this one stands for the service, and was killed. */
  | { readonly is: 'orphaned' };

/** What a service is made of that is there before it. */
interface Parts {
  readonly flags: ServiceFlags;
  readonly children: Children | undefined;
  /** What the service is known by: the command, the app or program, and its arguments. */
  readonly words: readonly string[];
  readonly log: Log;
  readonly notifier: Notifier;
  readonly inherited: readonly InheritedDescriptor[];
  readonly authkey: string | undefined;
  readonly descent: Descent | undefined;
}

/**
 * Runs until it is stopped, here or in a later generation.
 * @param words what the service is known by: the command, the app or program, and its arguments
 * @returns the exit code
 */
export async function runService(
  flags: ServiceFlags,
  children: Children | undefined,
  words: readonly string[],
): Promise<number> {
  await using opened = openLog(flags.logLevel);
  const { log } = opened;
  using notifier = new Notifier(process.env, {
    warn: (error) => {
      log.warn(ofError(error), 'the service manager was not told');
    },
  });
  const reaper = OrphanReaper.start();
  try {
    const descent = takeDescent();
    const inherited = inheritedDescriptors();
    const authkey = await readAuthkey(flags, (message) => {
      log.warn(message);
    });
    const service = new Service({
      flags: withAbsolutePaths(flags, descent?.control),
      children,
      words,
      log,
      notifier,
      inherited,
      authkey,
      descent,
    });
    return await service.run();
  } catch (error) {
    log.fatal(ofError(error), 'failed');
    return 1;
  } finally {
    reaper?.[Symbol.dispose]();
  }
}

class Service {
  readonly #parts: Parts;
  readonly #log: Log;
  readonly #dispatcher: Dispatcher;
  readonly #supervisor: Supervisor | undefined;
  readonly #lineage: Lineage;
  readonly #roster: Roster;
  /** What the workers of this service know it by. */
  readonly #fingerprint: string | undefined;
  readonly #guard = new FileGuard(() => this.#restoreFiles());
  /** Why files could not be made anew, as was logged. */
  #restoreFailures: readonly string[] = [];
  readonly #ended: Promise<End>;
  #end: (end: End) => void = () => undefined;
  #isEnding = false;
  #isStopping = false;
  #takingOver: Promise<unknown> | undefined;
  /** What of a takeover can be given up: a new process that has not said hello. */
  #unready: NextGeneration | undefined;
  readonly #restarts = new Restarts<RestartResult>({
    restart: (progress, without) => this.#restart(progress, without),
    untilFree: () => this.#untilRestartable(),
  });
  readonly #signals = new Signals(this.#signalHandlers());
  /** Resolves when this generation is the present one, or will never be. */
  readonly #begun: Promise<void>;
  #begin: () => void = () => undefined;
  /** The generation that has everything now. */
  #successor: NextGeneration | undefined;

  constructor(parts: Parts) {
    const { flags, children, words, log, notifier, descent } = parts;
    this.#parts = parts;
    this.#log = log;
    this.#begun = new Promise((resolve) => {
      this.#begin = resolve;
    });
    this.#ended = new Promise((resolve) => {
      this.#end = (end) => {
        this.#isEnding = true;
        this.#begin();
        this.#isStopping ||= end.is === 'signal' || end.is === 'request';
        this.#unready?.signal('SIGKILL');
        resolve(end);
      };
    });
    const isManaged = notifier.isActive;
    this.#lineage =
      descent && !isManaged
        ? this.#descendant(descent)
        : new Origin(flags.control, { ...notifier.environment() }, !isManaged);
    const { policy, overload, backlog } = flags;
    this.#dispatcher = new Dispatcher({
      policy,
      overload,
      lastWill: true,
      readyTimeoutMs: flags.readyTimeout,
      ...(backlog !== undefined && { backlog }),
    });
    // Ids up to the number of children are theirs.
    logDispatcher(log, this.#dispatcher, ({ id }) => id > (children?.count ?? 0));
    this.#keepStore();
    this.#guard.add(flags.control);
    this.#guard.add(`${flags.control}.workers`);
    this.#dispatcher.on('listening', (address) => {
      if (hasFile(address)) this.#guard.add(address.path);
    });
    this.#dispatcher.on('unlistened', (address) => {
      if (hasFile(address)) this.#guard.remove(address.path);
    });
    const service = { words, directory: namedDirectory() ?? process.cwd() };
    this.#roster = new Roster(flags.control, service, this.#dispatcher, (error) => {
      log.warn(ofError(error), 'after a crash, workers will be started anew: they cannot be noted');
    });
    if (!children) return;
    this.#fingerprint = fingerprint(service);
    const options = supervisorOptions(parts, children, this.#fingerprint);
    this.#supervisor = new Supervisor(this.#dispatcher, options);
    logSupervisor(log, this.#supervisor);
    this.#dispatcher.on('returned', (worker) => {
      this.#adopt(worker);
    });
    this.#supervisor.on('finished', () => {
      this.#end({ is: 'finished' });
    });
    this.#supervisor.on('started', () => {
      traceStep('worker-started');
    });
    this.#supervisor.on('stayedAway', () => {
      traceStep('worker-given-up');
    });
    this.#roster.follow(this.#supervisor);
    this.#supervisor.on('restartBegan', () => {
      notifier.reloading();
    });
    for (const event of ['restarted', 'restartFailed'] as const) {
      this.#supervisor.on(event, () => {
        // Who stops has said so, for good.
        if (!this.#isEnding) notifier.ready();
      });
    }
  }

  async run(): Promise<number> {
    try {
      const { descent } = this.#parts;
      const occupants = await (descent ? this.#succeed(descent) : this.#open());
      this.#start(occupants);
      const end = await this.#ended;
      // A takeover that is under way is decided first: who ends then is the one that has everything.
      await this.#takingOver?.catch(() => undefined);
      if (this.#successor) return await this.#handOn(this.#successor);
      // No farewell, and nothing is closed in good order: whoever is started next goes on with it.
      if (end.is === 'orphaned') process.exit(1);
      return await this.#stop(end);
    } finally {
      this.#guard[Symbol.dispose]();
      await this.#dispatcher.close();
      this.#roster.abandon();
      this.#lineage.close();
      this.#signals.end();
    }
  }

  #signalHandlers(): SignalHandlers {
    return {
      stop: (signal) => {
        this.#log.info({ signal }, 'stopping; a second signal stops at once');
        this.#end({ is: 'signal' });
      },
      repeated: (signal) => {
        this.#log.info(
          { signal },
          `still stopping: a signal within ${SAME_REQUEST_MS} ms of the first is the same request`,
        );
      },
      SIGHUP: () => {
        this.#askForRestart('signal').catch(() => undefined); // the log has it
      },
      SIGUSR2: () => {
        this.#takeOver().catch((error: unknown) => {
          this.#log.error(ofError(error), 'takeover failed');
        });
      },
    };
  }

  #descendant({ origin }: Descent): Descendant {
    const descendant = new Descendant(origin);
    descendant.orphaned
      .then(() => {
        // As if it had been killed itself: its workers wait for the next dispatcher at the control path.
        this.#log.fatal('the process that was started first was killed, and this one ends with it');
        this.#end({ is: 'orphaned' });
      })
      .catch(() => undefined);
    return descendant;
  }

  /** Begins where nobody was, or where a dispatcher has died. */
  async #open(): Promise<Occupant[]> {
    const { flags, authkey } = this.#parts;
    const { control, rawControl } = flags;
    prepareControlDirectory(control);
    const living = await this.#claim();
    // The path first, so that of two dispatchers the second one ends before it has touched anything else.
    let isTaken = false;
    const opened = this.#dispatcher
      .openControl(control, {
        ...this.#controlOptions(),
        ...(authkey !== undefined && { authkey }),
        awaited: living.filter(({ hasJoined, isLeaving }) => hasJoined && !isLeaving),
        prepare: async () => {
          if (this.#signals.isStoppedAtOnce) throw new PassfdError('ERR_CLOSED', 'The service was stopped');
          isTaken = true;
          await this.#listen();
          if (rawControl !== undefined) {
            await this.#dispatcher.openRawControl(rawControl, this.#controlOptions());
          }
        },
      })
      .catch(async (error: unknown) => {
        // What the workers have brought back, files too, is for the next start.
        if (isTaken && living.length > 0) await this.#dispatcher.disown();
        throw isTaken ? error : explainInUse(error);
      });
    // A second signal does not wait for those who may come back.
    await Promise.race([opened, this.#signals.second]);
    return this.#roster.occupantsAmong(living);
  }

  /** The workers of a dispatcher that is proved dead. @throws {PassfdError} `ERR_ADDRESS_IN_USE` when it lives */
  async #claim(): Promise<readonly Survivor[]> {
    const { control } = this.#parts.flags;
    // First: where the system cannot hold the lock apart (`Hold`), a will that is left has it.
    for (const pid of await settleWills(control)) {
      this.#log.warn(
        { pid },
        'passfd-will of the dispatcher that was killed did not end, and was killed: what no worker had yet is lost',
      );
    }
    traceStep('wills-settled');
    return this.#roster.claim();
  }

  /** Begins where another generation is, and goes on. */
  async #succeed({ predecessor }: Descent): Promise<Occupant[]> {
    const { authkey } = this.#parts;
    await predecessor.send({ type: 'hello', version, format: TAKEOVER_FORMAT, pid: process.pid });
    traceStep('hello-said');
    let occupants: Occupant[];
    this.#roster.join();
    try {
      const attachments = await takeOver(this.#dispatcher, predecessor, {
        ...this.#controlOptions(),
        ...(authkey !== undefined && { authkey }),
      });
      occupants = attachments.map(occupantIn);
      const { stoppingForMs } = await awaitGo(predecessor);
      if (stoppingForMs !== undefined) this.#signals.expectRequest(stoppingForMs);
    } catch (error) {
      // All of it is still the other one's.
      await this.#dispatcher.disown();
      throw error;
    } finally {
      predecessor[Symbol.dispose]();
    }
    this.#dispatcher.thaw();
    const { generation } = this.#dispatcher.status();
    this.#log.info({ generation, workers: this.#dispatcher.workers.length }, 'took over');
    return occupants;
  }

  #start(occupants: readonly Occupant[]): void {
    const { notifier, descent } = this.#parts;
    this.#roster.open(occupants);
    if (descent) this.#sayStarted(descent).catch(() => undefined); // whom it is for may have ended
    notifier.startKeepAlive();
    const started = this.#supervisor?.start(occupants) ?? Promise.resolve();
    // Those that were back before, or came in the middle of a takeover.
    for (const worker of this.#dispatcher.workers) this.#adopt(worker);
    this.#begin();
    started
      .then(async () => {
        traceStep('complete');
        notifier.ready();
        await this.#dispatcher.closeOffered();
      })
      .catch((error: unknown) => {
        // Being stopped, or handed over, is no failure.
        if (error instanceof PassfdError && error.code === 'ERR_CLOSED') return;
        this.#end({ is: 'failed', error });
      });
  }

  /** One that was a child of a dispatcher that died; the journal may have been lost, so that nobody expected it. */
  #adopt({ formerChild, pid }: WorkerView): void {
    if (!formerChild || !this.#roster.isOpen) return;
    const { slot, service } = formerChild;
    const occupant: Occupant = { id: slot, pid, identity: processIdentity(pid), state: 'awaited' };
    this.#supervisor?.adopt(occupant, service === this.#fingerprint);
  }

  /** To whoever has started this process; with a service manager, when that knows. */
  async #sayStarted({ origin }: Descent): Promise<void> {
    const { notifier } = this.#parts;
    notifier.mainPid(process.pid);
    await notifier.barrier();
    await origin.send({ type: 'started' });
    if (notifier.isActive) origin[Symbol.dispose]();
  }

  async #listen(): Promise<void> {
    const { inherited, flags, notifier } = this.#parts;
    const { addresses, offered, useless } = await resolveListen(flags.listen ?? [], inherited);
    for (const { name, descriptor } of useless) {
      notifier.removeStored(name);
      descriptor.close();
    }
    await this.#dispatcher.offer(offered);
    for (const address of addresses) await listenAt(this.#dispatcher, address);
    // What is listened at has a duplicate.
    closeAll(inherited.map(({ descriptor }) => descriptor).filter(({ closed }) => !closed));
  }

  #controlOptions(): ControlOptions {
    const { allowUid = [], allowGid = [] } = this.#parts.flags;
    return {
      allowUids: allowUid,
      allowGids: allowGid,
      commands: {
        // What came is checked (`decodeCommand`).
        restart: ({ without }, progress) =>
          this.#askForRestart('command', progress, without as readonly string[] | undefined),
        takeover: (_message, progress) => this.#takeOver(progress),
        stop: () => {
          this.#log.info('stopping by request');
          this.#end({ is: 'request' });
          return Promise.resolve();
        },
      },
    };
  }

  /** A restart that begins from now on, one for all that are asked for before it can. */
  #askForRestart(
    by: 'signal' | 'command',
    progress?: TellProgress,
    without?: readonly string[],
  ): Promise<RestartResult> {
    const reason = this.#whyRestartWaits();
    if (reason !== undefined) {
      this.#log.info(`restart asked for while ${reason}: it follows, once for all that are asked for`);
      progress?.(`${reason}; this restart follows`);
    }
    return this.#restarts.ask(by, progress, without);
  }

  #whyRestartWaits(): string | undefined {
    if (this.#isEnding) return undefined;
    if (this.#restarts.isUnderWay) return 'another restart runs';
    if (this.#takingOver) return 'a takeover runs';
    return this.#roster.isOpen ? undefined : 'the service is starting';
  }

  /** @returns false where the next generation has the workers, and is asked */
  async #untilRestartable(): Promise<boolean> {
    await this.#begun;
    while (this.#takingOver) await this.#takingOver.catch(() => undefined);
    return !this.#successor;
  }

  /** @throws {PassfdError} as `Supervisor.restart`; `ERR_NO_WORKER` when this service starts no workers */
  async #restart(progress: TellProgress, without: readonly string[]): Promise<RestartResult> {
    const onReplaced = ({ id, pid }: ChildView): void => {
      progress(`worker ${id} is process ${pid ?? 0} now`);
    };
    this.#supervisor?.on('replaced', onReplaced);
    try {
      if (!this.#supervisor) {
        throw new PassfdError(
          'ERR_NO_WORKER',
          'This dispatcher has started no workers; restart them where they were started',
        );
      }
      if (this.#isEnding) throw new PassfdError('ERR_CLOSED', 'The service is being stopped');
      const restarted = await this.#supervisor.restart({ without });
      // A process that has ended may have removed the file of a socket that the new one serves.
      await this.#dispatcher.restoreFiles();
      return { restarted };
    } catch (error) {
      this.#log.error(ofError(error), 'restart failed; what is not replaced goes on');
      throw error;
    } finally {
      this.#supervisor?.off('replaced', onReplaced);
    }
  }

  /**
   * Has the next generation take over.
   * @throws {PassfdError} `ERR_TAKEOVER` says why not; then this one goes on
   */
  async #takeOver(
    progress: (text: string) => void = () => undefined,
  ): Promise<{ readonly generation: number; readonly pid: number }> {
    if (this.#isEnding) throw new PassfdError('ERR_TAKEOVER', 'This generation is ending');
    if (!this.#roster.isOpen) {
      throw new PassfdError('ERR_TAKEOVER', 'This generation is still starting, and does not listen yet');
    }
    if (this.#takingOver) throw new PassfdError('ERR_TAKEOVER', 'Another takeover is running');
    const takingOver = this.#startNext(progress);
    this.#takingOver = takingOver;
    try {
      const { pid } = await takingOver;
      const generation = this.#dispatcher.status().generation + 1;
      this.#log.info({ generation, pid }, 'handed over');
      this.#end({ is: 'handed-over' });
      return { generation, pid };
    } finally {
      this.#takingOver = undefined;
    }
  }

  async #startNext(progress: (text: string) => void): Promise<NextGeneration> {
    const next = await this.#lineage.next(this.#parts.flags.readyTimeout);
    progress(`the new generation is process ${next.pid}`);
    traceStep('successor-started');
    await this.#handOver(next);
    // The next one has had the journal since before it was asked to go.
    this.#roster.close();
    this.#successor = next;
    // What was asked for before, and nobody has done, is for the next one too.
    if (this.#isStopping) next.signal('SIGTERM');
    if (this.#signals.isStoppedAtOnce) {
      // Later than what counts as the same request, and the other signal: of two that wait the kernel makes one.
      await sleep(2 * SAME_REQUEST_MS);
      next.signal('SIGINT');
    }
    if (this.#restarts.isSignalled) next.signal('SIGHUP');
    this.#signals.passOnTo(next.signal);
    return next;
  }

  async #handOver(next: NextGeneration): Promise<void> {
    try {
      await this.#awaitHello(next);
      await this.#supervisor?.pause();
      this.#roster.pause();
      try {
        await this.#handOverTo(next);
      } catch (error) {
        this.#roster.resume();
        this.#supervisor?.resume();
        throw error;
      }
    } catch (error) {
      next.signal('SIGKILL');
      throw takeoverError(error);
    } finally {
      next.channel[Symbol.dispose]();
    }
  }

  async #handOverTo({ channel, signal }: NextGeneration): Promise<void> {
    const kill = (): void => {
      signal('SIGKILL');
    };
    const attachments = (this.#supervisor?.occupants() ?? []).map(attachmentOf);
    try {
      const stoppingForMs = (): number | undefined => this.#signals.stoppingForMs;
      await handOver(this.#dispatcher, { channel, kill, stoppingForMs }, attachments);
    } finally {
      closeAll(attachments.flatMap(({ descriptors }) => descriptors));
    }
  }

  /** The new generation has loaded its code, and checked what it is told to do. */
  async #awaitHello(next: NextGeneration): Promise<void> {
    const { readyTimeout } = this.#parts.flags;
    const late = new AbortController();
    const timer = setTimeout(() => {
      late.abort();
      next.signal('SIGKILL');
    }, readyTimeout);
    this.#unready = next;
    if (this.#isEnding) next.signal('SIGKILL');
    try {
      const received = await next.channel.receive();
      if (received?.message.type === 'hello') return;
      throw new PassfdError(
        'ERR_TAKEOVER',
        late.signal.aborted
          ? `The new generation was not there within ${readyTimeout} ms (--ready-timeout), and was killed`
          : this.#isEnding
            ? 'The service is being stopped, and the new generation, which was not ready, was killed'
            : 'The new generation ended before it was ready; what it printed says why',
      );
    } finally {
      this.#unready = undefined;
      clearTimeout(timer);
    }
  }

  /** Closes what the next generation has, and resolves when this process has nothing more to do. */
  async #handOn(next: NextGeneration): Promise<number> {
    // Whoever asked for it gets the answer first.
    await setImmediate();
    const over = this.#lineage.handOn(next, (receiver) => {
      this.#signals.passOnTo(receiver);
    });
    await this.#supervisor?.release();
    await this.#dispatcher.disown();
    await this.#parts.notifier.barrier();
    return over;
  }

  /** Finishes what is open, and ends. @returns the exit code */
  async #stop(end: End): Promise<number> {
    this.#parts.notifier.stopping();
    const isInTime = await Promise.race([
      this.#finish().then(() => true),
      this.#signals.second.then(() => false),
    ]);
    if (!isInTime) {
      this.#log.warn('stopped at once');
      await this.#supervisor?.kill();
    }
    // The next start is let in when nothing of this one is left.
    await this.#dispatcher.close();
    this.#roster.remove();
    if (end.is === 'failed') throw end.error;
    if (isInTime) this.#log.info('stopped');
    return isInTime ? 0 : 1;
  }

  /** Takes in nothing more, and resolves when everything that was open has ended, or had its time. */
  async #finish(): Promise<void> {
    // What the service manager keeps is there for the next start.
    await this.#dispatcher.stopAccepting({ isKept: this.#parts.notifier.isActive });
    await Promise.all([this.#supervisor?.stop(), this.#drainOthers()]);
  }

  /** Workers that are nobody's children here live on, so they are only waited for. */
  async #drainOthers(): Promise<void> {
    const drains = this.#dispatcher.workers.map((worker) => this.#dispatcher.drain(worker));
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#parts.flags.drainTimeout);
    });
    await Promise.race([Promise.allSettled(drains), timeout]);
    clearTimeout(timer);
  }

  /** Of the files that this service is reached by, those that somebody has removed. */
  async #restoreFiles(): Promise<void> {
    if (!this.#roster.isOpen || this.#isEnding) return;
    const restored = await Promise.allSettled([
      new Promise<void>((resolve) => {
        this.#restoreJournal();
        resolve();
      }),
      this.#dispatcher.restoreFiles(),
    ]);
    const failures = restored.flatMap((one) => (one.status === 'rejected' ? [ofError(one.reason)] : []));
    for (const failure of failures) {
      // It is tried again and again.
      if (this.#restoreFailures.includes(failure.reason)) continue;
      this.#log.error(failure, 'a file of this service was removed, and cannot be made anew');
    }
    this.#restoreFailures = failures.map(({ reason }) => reason);
  }

  /** @throws when it cannot be made anew */
  #restoreJournal(): void {
    const found = this.#roster.check();
    if (found === 'restored') this.#log.warn('the journal was missing, and is written anew');
    if (found !== 'displaced') return;
    throw new PassfdError(
      'ERR_ADDRESS_IN_USE',
      'Another dispatcher, or its workers, have the journal: stop one of the two services, which do not know each other',
    );
  }

  /** Has the service manager keep the listening sockets that were made here. */
  #keepStore(): void {
    const { notifier } = this.#parts;
    this.#dispatcher.on('listening', (address, { fd, isInherited }) => {
      if (!isInherited) notifier.store(storedName(address), [{ fd }]);
    });
    this.#dispatcher.on('relistened', (address, { fd }) => {
      if ('path' in address && address.path === this.#parts.flags.control) return;
      notifier.removeStored(storedName(address));
      notifier.store(storedName(address), [{ fd }]);
    });
    this.#dispatcher.on('unlistened', (address) => {
      if (!this.#isEnding) notifier.removeStored(storedName(address));
    });
  }
}

/** Those of sockets: workers and later generations may be started in another directory, of the same name. */
function withAbsolutePaths(flags: ServiceFlags, control = resolve(flags.control)): ServiceFlags {
  const { rawControl, listen } = flags;
  return {
    ...flags,
    control,
    ...(rawControl !== undefined && { rawControl: resolve(rawControl) }),
    ...(listen && { listen: listen.map(withAbsolutePath) }),
  };
}

function withAbsolutePath(address: WrittenAddress): WrittenAddress {
  return hasFile(address) ? { path: resolve(address.path) } : address;
}

function hasFile(address: WrittenAddress): address is { readonly path: string } {
  return 'path' in address && !address.path.startsWith('\0');
}

function supervisorOptions(
  { flags, authkey }: Parts,
  { command, count }: Children,
  service: string,
): SupervisorOptions {
  const isSpread = count > 1;
  const { control, drainTimeout, orphanTimeout, maxExtra, readyTimeout, workerEnvFile, prefixOutput } = flags;
  return {
    command,
    count,
    controlPath: control,
    drainTimeoutMs: drainTimeout,
    readyTimeoutMs: readyTimeout,
    maxExtra,
    output: prefixOutput === true ? 'prefixed' : 'inherit',
    ...(workerEnvFile !== undefined && { envFile: workerEnvFile }),
    env: {
      // A child may join by the control socket: at once, or when its dispatcher has died.
      PASSFD_AUTHKEY: authkey,
      // It may become another user before it does.
      PASSFD_TRUST_UIDS: String(process.getuid?.() ?? 0),
      PASSFD_ORPHAN_TIMEOUT: String(orphanTimeout),
      PASSFD_DRAIN_TIMEOUT: String(drainTimeout),
      PASSFD_SERVICE: service,
      PASSFD_POLICY: isSpread ? flags.policy : undefined,
    },
  };
}

async function listenAt(dispatcher: Dispatcher, address: ListenAddress): Promise<Address> {
  try {
    return await dispatcher.listen(address);
  } catch (error) {
    // The error names a duplicate, which has another number.
    if (error instanceof PassfdError && 'fd' in address) {
      throw new PassfdError(error.code, `fd:${address.fd} is of no use: ${error.message}`, { cause: error });
    }
    // As Node: IPv4 alone where this machine has no IPv6 (net, server.listen).
    const isWithoutIpv6 = error instanceof PassfdError && error.code === 'ERR_ADDRESS';
    if (!isWithoutIpv6 || !('host' in address) || address.host !== ANY_HOST) throw error;
    return dispatcher.listen({ host: '0.0.0.0', port: address.port });
  }
}

/** The message names the process; most often that is another dispatcher, which is well where it is. */
function explainInUse(error: unknown): unknown {
  if (!(error instanceof PassfdError) || error.code !== 'ERR_ADDRESS_IN_USE') return error;
  return new PassfdError(
    error.code,
    `${error.message}. End that dispatcher by passfd stop, or give this one a path of its own by --control PATH`,
    { cause: error },
  );
}
