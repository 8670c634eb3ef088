// Keeper: the first process after its takeover: it passes signals on, starts generations, and exits with the last one.
import type { ChildProcess } from 'node:child_process';
import { constants } from 'node:os';

import type { TakeoverChannel } from '../dispatcher/internal.js';
import { closeAll, socketPair } from '../fd/index.js';
import { receive, startGeneration, type Started } from './generation.js';
import type { PassSignals } from './lineage.js';

/** A shell reports a signal that ended a program as this plus the number of the signal. */
const SIGNAL_EXIT_CODE = 128;

/** A generation that has taken over from one that was killed reports that within this time. */
const BEGIN_TIMEOUT_MS = 5_000;

/** A generation whose messages the keeper reads. */
interface Heard extends Started {
  /** Resolves when it has reported that it is the dispatcher, or will report nothing more. */
  readonly begun: Promise<void>;
  /** Resolves when it will report nothing more. */
  readonly heard: Promise<void>;
}

export class Keeper {
  readonly #env: NodeJS.ProcessEnv;
  readonly #passSignals: PassSignals;
  #current: Heard;
  #next: Heard | undefined;

  /** @param env see `startGeneration` */
  constructor(current: Started, env: NodeJS.ProcessEnv, passSignals: PassSignals) {
    this.#env = env;
    this.#passSignals = passSignals;
    this.#current = this.#hear(current);
  }

  /** @returns the exit code of the last generation, when that has exited */
  async run(): Promise<number> {
    for (;;) {
      const generation = this.#current;
      await generation.ended;
      await generation.heard;
      if (this.#current === generation && !(await this.#isFollowed())) return exitCodeOf(generation.process);
    }
  }

  #hear(generation: Started): Heard {
    let begin = (): void => undefined;
    const begun = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const heard = this.#read(generation, begin).finally(begin);
    return { ...generation, begun, heard };
  }

  async #read({ channel, pid }: Started, begin: () => void): Promise<void> {
    for (let received = await receive(channel); received; received = await receive(channel)) {
      const { message, descriptors } = received;
      closeAll(descriptors);
      if (message.type === 'wanted') {
        await this.#startNext(channel);
      } else if (message.type === 'handed-over') {
        this.#follow(message.pid);
        break;
      } else if (message.type === 'started') {
        this.#follow(pid);
        begin();
      }
    }
    channel[Symbol.dispose]();
  }

  /** Both generations report the takeover, because each can be killed in that moment. The second report does nothing. */
  #follow(pid: number): void {
    const next = this.#next;
    if (next?.pid !== pid) return;
    this.#next = undefined;
    this.#current = next;
    this.#passSignals((name) => {
      next.process.kill(name);
    });
  }

  /** Whether the next generation had taken over when the present one was killed. If not, it exits by itself. */
  async #isFollowed(): Promise<boolean> {
    const next = this.#next;
    if (!next) return false;
    const timer = setTimeout(() => {
      next.process.kill('SIGKILL');
    }, BEGIN_TIMEOUT_MS);
    await next.begun;
    clearTimeout(timer);
    return this.#current === next;
  }

  async #startNext(channel: TakeoverChannel): Promise<void> {
    try {
      const [here, there] = socketPair();
      using mine = here;
      using theirs = there;
      const next = this.#hear(await startGeneration(theirs.fd, this.#env));
      this.#next = next;
      using descriptor = mine.duplicate();
      await channel.send({ type: 'successor', pid: next.pid }, [descriptor]);
    } catch (error) {
      await channel
        .send({ type: 'failed', code: 'ERR_TAKEOVER', reason: (error as Error).message })
        .catch(() => undefined);
    }
  }
}

function exitCodeOf({ exitCode, signalCode }: ChildProcess): number {
  return signalCode === null ? (exitCode ?? 1) : SIGNAL_EXIT_CODE + constants.signals[signalCode];
}
