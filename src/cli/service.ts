// Service: a dispatcher, the processes that it has started, and what ends them: a signal, a request, or their own end.
import { Dispatcher, type ControlOptions } from '../dispatcher/index.js';
import { PassfdError, type Address } from '../fd/index.js';
import { prepareControlDirectory } from '../handoff/index.js';
import { Supervisor, type SupervisorOptions } from '../supervisor/index.js';
import { ANY_HOST, type ListenAddress } from './address.js';
import { readAuthkey } from './authkey.js';
import { createLog, type Log } from './log.js';
import { logDispatcher, logSupervisor, ofError } from './log-events.js';
import type { ServiceFlags } from './options.js';

/** The processes to start, and whether they may join by the control socket, for which they need the key. */
export interface Children {
  readonly command: SupervisorOptions['command'];
  readonly count: number;
  readonly joinsByControl: boolean;
}

/** What begins the end. */
type End = 'signal' | 'request' | 'finished' | 'failed';

/** Runs until it is stopped. @returns the exit code */
export async function runService(flags: ServiceFlags, children: Children | undefined): Promise<number> {
  const log = createLog(flags.logLevel);
  try {
    const authkey = await readAuthkey(flags, (message) => {
      log.warn(message);
    });
    await using service = new Service(flags, children, authkey, log);
    return await service.run(authkey);
  } catch (error) {
    log.fatal(ofError(error), 'failed');
    return 1;
  }
}

class Service implements AsyncDisposable {
  readonly #flags: ServiceFlags;
  readonly #log: Log;
  readonly #dispatcher: Dispatcher;
  readonly #supervisor: Supervisor | undefined;
  readonly #ended: Promise<End>;
  #end: (end: End) => void = () => undefined;
  #failure: unknown;

  constructor(flags: ServiceFlags, children: Children | undefined, authkey: string | undefined, log: Log) {
    this.#flags = flags;
    this.#log = log;
    this.#ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    const { policy, overload, backlog } = flags;
    this.#dispatcher = new Dispatcher({ policy, overload, ...(backlog !== undefined && { backlog }) });
    logDispatcher(log, this.#dispatcher);
    if (!children) return;
    this.#supervisor = new Supervisor(this.#dispatcher, supervisorOptions(flags, children, authkey));
    logSupervisor(log, this.#supervisor);
    this.#supervisor.on('finished', () => {
      this.#end('finished');
    });
  }

  async run(authkey: string | undefined): Promise<number> {
    using signals = new Signals((signal) => {
      this.#log.info({ signal }, 'stopping; a second signal stops at once');
      this.#end('signal');
    });
    await this.#open(authkey);
    this.#supervisor?.start().catch((error: unknown) => {
      // Being stopped is no failure.
      if (error instanceof PassfdError && error.code === 'ERR_CLOSED') return;
      this.#failure = error;
      this.#end('failed');
    });
    const end = await this.#ended;
    const isInTime = await Promise.race([this.#stop().then(() => true), signals.second.then(() => false)]);
    if (!isInTime) {
      this.#log.warn('stopped at once');
      await this.#supervisor?.kill();
      return 1;
    }
    if (end === 'failed') throw this.#failure;
    this.#log.info('stopped');
    return 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#dispatcher.close();
  }

  async #open(authkey: string | undefined): Promise<void> {
    const { listen = [], control, rawControl, allowUid = [], allowGid = [] } = this.#flags;
    const options: ControlOptions = { allowUids: allowUid, allowGids: allowGid };
    prepareControlDirectory(control);
    // The path first, so that of two dispatchers the second one ends before it has touched anything else.
    let isTaken = false;
    await this.#dispatcher
      .openControl(control, {
        ...options,
        ...(authkey !== undefined && { authkey }),
        prepare: async () => {
          isTaken = true;
          for (const address of listen) await listenAt(this.#dispatcher, address);
          if (rawControl !== undefined) await this.#dispatcher.openRawControl(rawControl, options);
        },
        commands: {
          stop: () => {
            this.#log.info('stopping by request');
            this.#end('request');
            return Promise.resolve();
          },
        },
      })
      .catch((error: unknown) => {
        throw isTaken ? error : explainInUse(error);
      });
  }

  /** Takes in nothing more, and resolves when everything that was open has ended, or had its time. */
  async #stop(): Promise<void> {
    await this.#dispatcher.stopAccepting();
    await Promise.all([this.#supervisor?.stop(), this.#drainOthers()]);
  }

  /** Workers that are nobody's children here live on, so they are only waited for. */
  async #drainOthers(): Promise<void> {
    const drains = this.#dispatcher.workers.map(({ id }) => this.#dispatcher.drainWorker(id));
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#flags.drainTimeout);
    });
    await Promise.race([Promise.allSettled(drains), timeout]);
    clearTimeout(timer);
  }
}

/** SIGTERM and SIGINT, from here until it is disposed of. */
class Signals implements Disposable {
  /** Resolves at the second one. */
  readonly second: Promise<void>;
  readonly #onSignal: (signal: NodeJS.Signals) => void;

  constructor(onFirst: (signal: NodeJS.Signals) => void) {
    let count = 0;
    let onSecond = (): void => undefined;
    this.second = new Promise((resolve) => {
      onSecond = resolve;
    });
    this.#onSignal = (signal) => {
      if (++count === 1) onFirst(signal);
      else onSecond();
    };
    process.on('SIGTERM', this.#onSignal);
    process.on('SIGINT', this.#onSignal);
  }

  [Symbol.dispose](): void {
    process.off('SIGTERM', this.#onSignal);
    process.off('SIGINT', this.#onSignal);
  }
}

function supervisorOptions(
  flags: ServiceFlags,
  { command, count, joinsByControl }: Children,
  authkey: string | undefined,
): SupervisorOptions {
  return {
    command,
    count,
    controlPath: flags.control,
    drainTimeoutMs: flags.drainTimeout,
    output: flags.prefixOutput === true ? 'prefixed' : 'inherit',
    ...(joinsByControl && authkey !== undefined && { env: { PASSFD_AUTHKEY: authkey } }),
  };
}

async function listenAt(dispatcher: Dispatcher, address: ListenAddress): Promise<Address> {
  try {
    return await dispatcher.listen(address);
  } catch (error) {
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
