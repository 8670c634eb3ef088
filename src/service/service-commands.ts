// ServiceCommands: restart, takeover and stop, as the control socket and signals ask for them.
import type { Commands, Dispatcher } from '../dispatcher/index.js';
import { PassfdError } from '../fd/index.js';
import type { ChildView, Supervisor } from '../supervisor/index.js';
import type { Life } from './life.js';
import { ofError } from './log-events.js';
import type { Log } from './log.js';
import { Restarts, type ReportProgress } from './restarts.js';
import type { Roster } from './roster.js';
import type { TakeoverSession } from './takeover-session.js';

interface RestartResult {
  readonly restarted: number;
}

export interface CommandParts {
  readonly dispatcher: Dispatcher;
  readonly supervisor: Supervisor | undefined;
  readonly roster: Roster;
  readonly life: Life;
  readonly log: Log;
  readonly takeover: () => TakeoverSession;
}

export class ServiceCommands {
  /** The commands of the control socket. */
  readonly control: Commands = {
    // The decoder has checked the fields (`decodeCommand`).
    restart: ({ without }, progress) =>
      this.restart('command', progress, without as readonly string[] | undefined),
    takeover: (_message, progress) => this.#parts.takeover().handOver(progress),
    stop: () => {
      this.#parts.log.info('stopping by request');
      this.#parts.life.end({ is: 'request' });
      return Promise.resolve();
    },
  };
  readonly #parts: CommandParts;
  readonly #restarts = new Restarts<RestartResult>({
    restart: (progress, without) => this.#restart(progress, without),
    untilFree: () => this.#untilRestartable(),
  });

  constructor(parts: CommandParts) {
    this.#parts = parts;
  }

  /** Whether a signal asked for a restart that has not begun. */
  get isRestartSignalled(): boolean {
    return this.#restarts.isSignalled;
  }

  /**
   * Restarts the workers, with one restart for all requests that come before it begins.
   * @throws {PassfdError} as `Supervisor.restart`; `ERR_NO_WORKER` when this service starts no workers
   */
  restart(
    by: 'signal' | 'command',
    progress?: ReportProgress,
    without?: readonly string[],
  ): Promise<RestartResult> {
    const reason = this.#whyRestartWaits();
    if (reason !== undefined) {
      this.#parts.log.info(`restart requested while ${reason}: it follows, once for all requests`);
      progress?.(`${reason}; this restart follows`);
    }
    return this.#restarts.ask(by, progress, without);
  }

  #whyRestartWaits(): string | undefined {
    const { life, roster, takeover } = this.#parts;
    if (life.isEnding) return undefined;
    if (this.#restarts.isUnderWay) return 'another restart runs';
    if (takeover().isRunning) return 'a takeover runs';
    return roster.isOpen ? undefined : 'the service is starting';
  }

  /** @returns false when the next generation has the workers; the request goes there */
  async #untilRestartable(): Promise<boolean> {
    await this.#parts.life.begun;
    const takeover = this.#parts.takeover();
    await takeover.settled();
    return !takeover.hasHandedOver;
  }

  async #restart(progress: ReportProgress, without: readonly string[]): Promise<RestartResult> {
    const { supervisor, dispatcher, life, log } = this.#parts;
    const onReplaced = ({ id, pid }: ChildView): void => {
      progress(`worker ${id} is process ${pid ?? 0} now`);
    };
    supervisor?.on('replaced', onReplaced);
    try {
      if (!supervisor) {
        throw new PassfdError(
          'ERR_NO_WORKER',
          'This dispatcher has started no workers; restart them where they were started',
        );
      }
      if (life.isEnding) throw new PassfdError('ERR_CLOSED', 'The service is stopping');
      const restarted = await supervisor.restart({ without });
      // A process that exited may have removed the file of a Unix socket that its successor serves.
      await dispatcher.restoreFiles();
      return { restarted };
    } catch (error) {
      log.error(ofError(error), 'restart failed; workers that were not replaced go on');
      throw error;
    } finally {
      supervisor?.off('replaced', onReplaced);
    }
  }
}
