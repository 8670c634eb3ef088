// Service: one generation of a dispatcher and its worker processes: it starts or takes over, runs, and ends.
import { Dispatcher, type ControlOptions, type WorkerView } from '../dispatcher/index.js';
import { PassfdError } from '../fd/index.js';
import { OrphanReaper, processIdentity, settleWills } from '../fd/internal.js';
import { prepareControlDirectory, traceStep } from '../handoff/index.js';
import { Supervisor } from '../supervisor/index.js';
import { namedDirectory, type SlotSnapshot } from '../supervisor/internal.js';
import { inheritedDescriptors, Notifier, type InheritedDescriptor } from '../systemd/index.js';
import { readAuthkey } from './authkey.js';
import { supervisorOptions, type WorkerCommand } from './children.js';
import type { Survivor } from './journal-records.js';
import { keepSockets } from './kept-sockets.js';
import { Life, type End } from './life.js';
import { takeDescent, type Descent } from './generation.js';
import { Descendant, Origin, type Lineage } from './lineage.js';
import { listenAtAll } from './listening.js';
import { logDispatcher, logSupervisor, ofError } from './log-events.js';
import { openLog, type Log } from './log.js';
import { Roster } from './roster.js';
import { ServiceCommands } from './service-commands.js';
import { ServiceFiles } from './service-files.js';
import { fingerprint } from './service-name.js';
import { withAbsolutePaths, type ServiceSettings } from './settings.js';
import { SAME_REQUEST_MS, Signals, type SignalHandlers } from './signals.js';
import { reportStarted, takeOverFrom, TakeoverSession } from './takeover-session.js';

/** What exists before the service, and is given to it. */
interface Parts {
  readonly settings: ServiceSettings;
  readonly command: WorkerCommand | undefined;
  readonly words: readonly string[];
  readonly log: Log;
  readonly notifier: Notifier;
  readonly inherited: readonly InheritedDescriptor[];
  readonly authkey: string | undefined;
  /** Undefined in the first generation. */
  readonly descent: Descent | undefined;
}

/**
 * Runs a service until it is stopped, in this process or in a later generation.
 * @param command starts a worker process. Without one, the service starts no workers: they join by themselves
 * @param words identify the service: the command of passfd, the app or program, and its arguments
 * @returns the exit code
 */
export async function runService(
  settings: ServiceSettings,
  command: WorkerCommand | undefined,
  words: readonly string[],
): Promise<number> {
  await using opened = openLog(settings.logLevel);
  const { log } = opened;
  using notifier = new Notifier(process.env, {
    warn: (error) => {
      log.warn(ofError(error), 'could not notify the service manager');
    },
  });
  const reaper = OrphanReaper.start();
  try {
    const descent = takeDescent();
    const inherited = inheritedDescriptors();
    const authkey = await readAuthkey(settings, (message) => {
      log.warn(message);
    });
    const service = new Service({
      settings: withAbsolutePaths(settings, descent?.control),
      command,
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
  readonly #life = new Life();
  readonly #dispatcher: Dispatcher;
  readonly #supervisor: Supervisor | undefined;
  readonly #lineage: Lineage;
  readonly #roster: Roster;
  readonly #files: ServiceFiles;
  readonly #commands: ServiceCommands;
  readonly #signals = new Signals(this.#signalHandlers());
  readonly #takeover: TakeoverSession;
  /** Workers of this service name it when they return after a crash. */
  readonly #fingerprint: string;

  constructor(parts: Parts) {
    const { settings, command, words, log, notifier } = parts;
    const { controlPath, readyTimeoutMs } = settings;
    this.#parts = parts;
    this.#log = log;
    const life = this.#life;
    this.#lineage = this.#createLineage(parts);
    const { accept, policy, overload, backlog, recipeConcurrency } = settings;
    const dispatcher = new Dispatcher({
      accept,
      overload,
      lastWill: true,
      readyTimeoutMs,
      ...(policy !== undefined && { policy }),
      ...(backlog !== undefined && { backlog }),
      ...(recipeConcurrency !== undefined && { recipeConcurrency }),
    });
    this.#dispatcher = dispatcher;
    // Ids up to the number of children are theirs.
    const children = command ? settings.workers : 0;
    logDispatcher(log, dispatcher, ({ id }) => id > children);
    keepSockets(dispatcher, notifier, { controlPath, life });
    const name = { words, directory: namedDirectory() ?? process.cwd() };
    this.#fingerprint = fingerprint(name);
    const roster = new Roster(controlPath, name, dispatcher, (error) => {
      log.warn(
        ofError(error),
        'cannot write the journal of workers; after a crash of the dispatcher, workers will be started anew',
      );
    });
    this.#roster = roster;
    this.#files = new ServiceFiles(controlPath, { dispatcher, roster, life, log });
    this.#supervisor = command && this.#createSupervisor(parts, command);
    const common = { dispatcher, supervisor: this.#supervisor, roster, life, log };
    this.#commands = new ServiceCommands({ ...common, takeover: () => this.#takeover });
    this.#takeover = new TakeoverSession({
      ...common,
      lineage: this.#lineage,
      signals: this.#signals,
      notifier,
      readyTimeoutMs,
      isRestartSignalled: () => this.#commands.isRestartSignalled,
    });
  }

  async run(): Promise<number> {
    try {
      const { descent } = this.#parts;
      const snapshots = await (descent ? this.#succeed(descent) : this.#open());
      this.#start(snapshots);
      const end = await this.#life.ended;
      // A takeover that runs is decided first: the generation that has everything then is the one that stops.
      await this.#takeover.settled();
      if (this.#takeover.hasHandedOver) return await this.#takeover.finish();
      // Nothing is closed in good order and nobody gets a farewell, so that the next start finds the workers.
      if (end.is === 'orphaned') process.exit(1);
      return await this.#stop(end);
    } finally {
      this.#files[Symbol.dispose]();
      await this.#dispatcher.close();
      this.#roster.giveUp();
      this.#lineage.close();
      this.#signals.end();
    }
  }

  #signalHandlers(): SignalHandlers {
    return {
      stop: (signal) => {
        this.#log.info({ signal }, 'stopping; a second signal stops at once');
        this.#life.end({ is: 'signal' });
      },
      repeated: (signal) => {
        this.#log.info(
          { signal },
          `still stopping: a signal within ${SAME_REQUEST_MS} ms of the first is the same request`,
        );
      },
      SIGHUP: () => {
        this.#commands.restart('signal').catch(() => undefined); // logged already
      },
      SIGUSR2: () => {
        this.#takeover.handOver().catch(() => undefined); // logged already
      },
    };
  }

  #createLineage({ settings, notifier, descent }: Parts): Lineage {
    const isManaged = notifier.isActive;
    if (!descent || isManaged) {
      return new Origin(settings.controlPath, { ...notifier.environment() }, !isManaged);
    }
    const descendant = new Descendant(descent.origin);
    descendant.orphaned
      .then(() => {
        // As if this process was killed too: its workers wait at the control path for the next dispatcher.
        this.#log.fatal('the first process of the service was killed; exiting with it');
        this.#life.end({ is: 'orphaned' });
      })
      .catch(() => undefined);
    return descendant;
  }

  #createSupervisor({ settings, authkey, notifier }: Parts, command: WorkerCommand): Supervisor {
    const options = supervisorOptions(settings, command, { authkey, service: this.#fingerprint });
    const supervisor = new Supervisor(this.#dispatcher, options);
    logSupervisor(this.#log, supervisor);
    this.#dispatcher.on('returned', (worker) => {
      this.#adopt(worker);
    });
    supervisor.on('finished', () => {
      this.#life.end({ is: 'finished' });
    });
    supervisor.on('started', () => {
      traceStep('worker-started');
    });
    supervisor.on('stayedAway', () => {
      traceStep('worker-given-up');
    });
    this.#roster.follow(supervisor);
    supervisor.on('restartBegan', () => {
      notifier.reloading();
    });
    for (const event of ['restarted', 'restartFailed'] as const) {
      supervisor.on(event, () => {
        // `stopping` was sent before, and is final.
        if (!this.#life.isEnding) notifier.ready();
      });
    }
    return supervisor;
  }

  /** Starts where no dispatcher is, or where one was killed. */
  async #open(): Promise<SlotSnapshot[]> {
    const { settings, inherited, notifier } = this.#parts;
    const { controlPath, rawControlPath, listen } = settings;
    prepareControlDirectory(controlPath);
    const survivors = await this.#claim();
    // The control path comes first: a second dispatcher fails there, before it has touched anything else.
    let isTaken = false;
    const opened = this.#dispatcher
      .openControl(controlPath, {
        ...this.#keyedControlOptions(),
        awaited: survivors.filter(({ hasJoined, isLeaving }) => hasJoined && !isLeaving),
        prepare: async () => {
          if (this.#signals.isStoppedAtOnce) throw new PassfdError('ERR_CLOSED', 'The service was stopped');
          isTaken = true;
          // Before the addresses: when the last of them is logged, everything is open.
          if (rawControlPath !== undefined) {
            await this.#dispatcher.openRawControl(rawControlPath, this.#controlOptions());
          }
          await listenAtAll(this.#dispatcher, listen, inherited, notifier);
        },
      })
      .catch(async (error: unknown) => {
        // The sockets that workers brought back, and their files, are left for the next start.
        if (isTaken && survivors.length > 0) await this.#dispatcher.disown();
        throw isTaken ? error : explainInUse(error);
      });
    // A second signal does not wait for workers that may return.
    await Promise.race([opened, this.#signals.second]);
    return this.#roster.snapshotsOf(survivors);
  }

  /** The workers of a dispatcher that was killed. @throws {PassfdError} `ERR_ADDRESS_IN_USE` when it is alive */
  async #claim(): Promise<readonly Survivor[]> {
    // Before the journal: where the kernel cannot keep a lock apart (`Hold`), a last will that still runs holds it.
    for (const pid of await settleWills(this.#parts.settings.controlPath)) {
      this.#log.warn(
        { pid },
        'passfd-will of a killed dispatcher did not exit, and was killed: connections that no worker had yet are lost',
      );
    }
    traceStep('wills-settled');
    return this.#roster.claim();
  }

  /** Takes over from the generation before. */
  async #succeed(descent: Descent): Promise<SlotSnapshot[]> {
    const parts = {
      dispatcher: this.#dispatcher,
      roster: this.#roster,
      signals: this.#signals,
      log: this.#log,
    };
    return takeOverFrom(descent, parts, this.#keyedControlOptions());
  }

  #start(snapshots: readonly SlotSnapshot[]): void {
    const { notifier, descent } = this.#parts;
    this.#roster.open(snapshots);
    if (descent) reportStarted(descent, notifier).catch(() => undefined); // the other process may have exited
    notifier.startKeepAlive();
    const started = this.#supervisor?.start(snapshots) ?? Promise.resolve();
    // Workers that returned earlier, or during a takeover.
    for (const worker of this.#dispatcher.workers) this.#adopt(worker);
    this.#life.begin();
    started
      .then(async () => {
        traceStep('complete');
        notifier.ready();
        await this.#dispatcher.closeOffered();
      })
      .catch((error: unknown) => {
        // The workers were stopped or handed over: no failure.
        if (error instanceof PassfdError && error.code === 'ERR_CLOSED') return;
        this.#life.end({ is: 'failed', error });
      });
  }

  /** Gives a child of a killed dispatcher to the supervisor. The journal may be lost, so the child can be unexpected. */
  #adopt({ formerChild, pid }: WorkerView): void {
    if (!formerChild || !this.#roster.isOpen) return;
    const { slot, service } = formerChild;
    const snapshot: SlotSnapshot = { id: slot, pid, identity: processIdentity(pid), state: 'awaited' };
    this.#supervisor?.adopt(snapshot, service === this.#fingerprint);
  }

  #controlOptions(): ControlOptions {
    const { allowUids, allowGids } = this.#parts.settings;
    return { allowUids, allowGids, commands: this.#commands.control };
  }

  #keyedControlOptions(): ControlOptions {
    const { authkey } = this.#parts;
    return { ...this.#controlOptions(), ...(authkey !== undefined && { authkey }) };
  }

  /** Drains and ends everything. @returns the exit code */
  async #stop(end: End): Promise<number> {
    this.#parts.notifier.stopping();
    const isInTime = await Promise.race([
      this.#drain().then(() => true),
      this.#signals.second.then(() => false),
    ]);
    if (!isInTime) {
      this.#log.warn('stopped at once');
      await this.#supervisor?.kill();
    }
    // The journal goes last: while its lock is held, no other start begins.
    await this.#dispatcher.close();
    this.#roster.remove();
    if (end.is === 'failed') throw end.error;
    if (isInTime) this.#log.info('stopped');
    return isInTime ? 0 : 1;
  }

  /** Accepts no more. Resolves when all connections have ended, or the drain timeout is over. */
  async #drain(): Promise<void> {
    // Sockets that the service manager keeps stay open for the next start.
    await this.#dispatcher.stopAccepting({ isKept: this.#parts.notifier.isActive });
    await Promise.all([this.#supervisor?.stop(), this.#drainOthers()]);
  }

  /** Workers that are no children of this service are drained, and live on. */
  async #drainOthers(): Promise<void> {
    const drains = this.#dispatcher.workers.map((worker) => this.#dispatcher.drain(worker));
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#parts.settings.drainTimeoutMs);
    });
    await Promise.race([Promise.allSettled(drains), timeout]);
    clearTimeout(timer);
  }
}

/** `error.message` names the process that holds the path, most often another dispatcher. */
function explainInUse(error: unknown): unknown {
  if (!(error instanceof PassfdError) || error.code !== 'ERR_ADDRESS_IN_USE') return error;
  return new PassfdError(
    error.code,
    `${error.message}. Stop that dispatcher with passfd stop, or give this one another path with --control PATH`,
    { cause: error },
  );
}
