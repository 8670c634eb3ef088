// Lineage: how a generation gets the next one. The first process starts all generations and stays until the last one exits;
// under a service manager, which follows the main process, each generation starts the next one and exits.
import { setImmediate } from 'node:timers/promises';

import { TakeoverChannel } from '../dispatcher/internal.js';
import { closeAll, PassfdError, socketPair, StreamSocket } from '../fd/index.js';
import { environmentFor, receive, startGeneration, type Started } from './generation.js';
import { Keeper } from './keeper.js';

/** The next generation, as the present one sees it. */
export interface NextGeneration {
  readonly pid: number;
  readonly channel: TakeoverChannel;
  /** Does nothing when its process has exited. */
  readonly signal: (name: NodeJS.Signals) => void;
}

/** Passes signals that this process gets from now on to another process. */
export type PassSignals = (receiver: NextGeneration['signal']) => void;

export interface Lineage {
  /**
   * Starts the next generation.
   * @throws {PassfdError} `ERR_TAKEOVER` when it cannot be started, or not in this time
   */
  next(timeoutMs: number): Promise<NextGeneration>;
  /**
   * Makes the next generation the present one. Signals that come to this process are passed on to it.
   * @param passSignals for a process that outlives the next generation
   * @returns the exit code of this process, when it may exit
   */
  handOn(next: NextGeneration, passSignals: PassSignals): Promise<number>;
  /** This generation is over. */
  close(): void;
}

const THE_STARTER = 'The process that starts generations';

/** The lineage of the process that a person, a shell or a container started; or of any generation under a service manager. */
export class Origin implements Lineage {
  readonly #env: NodeJS.ProcessEnv;
  readonly #stays: boolean;
  #next: Started | undefined;

  /**
   * @param control the absolute control path
   * @param env what the next generation has in its environment, beside the variables of this process
   * @param stays false under a service manager, which follows the main process that it is notified of
   */
  constructor(control: string, env: NodeJS.ProcessEnv, stays: boolean) {
    this.#env = environmentFor(control, env);
    this.#stays = stays;
  }

  async next(): Promise<NextGeneration> {
    const [here, there] = socketPair();
    using predecessor = there;
    try {
      const started = await startGeneration(predecessor.fd, this.#env);
      // From an earlier takeover that failed.
      this.#next?.channel[Symbol.dispose]();
      this.#next = started;
      return {
        pid: started.pid,
        channel: new TakeoverChannel(here),
        signal: (name) => {
          started.process.kill(name);
        },
      };
    } catch (error) {
      here.destroy();
      throw error;
    }
  }

  async handOn(_next: NextGeneration, passSignals: PassSignals): Promise<number> {
    const current = this.#next;
    if (!current) return 0;
    return this.#stays ? new Keeper(current, this.#env, passSignals).run() : leaveTo(current);
  }

  close(): void {
    // Only a keeper has something open, and that lives on.
  }
}

/** The service manager must know its new main process before this one exits. Until then, signals are passed on. */
async function leaveTo({ process: successor, channel }: Started): Promise<number> {
  const started = await receive(channel);
  channel[Symbol.dispose]();
  // Node would keep this process alive for its child.
  successor.unref();
  return started ? 0 : 1;
}

/** The lineage of a generation that took over, and that has the first process beside it. */
export class Descendant implements Lineage {
  readonly #origin: TakeoverChannel;
  #pending: { resolve: (next: NextGeneration) => void; reject: (error: Error) => void } | undefined;
  /** Resolves when the first process was killed while this generation was the present one. */
  readonly orphaned: Promise<void>;
  /** Resolves when the channel to the first process has ended. */
  readonly #ended: Promise<void>;
  #isOver = false;

  constructor(origin: TakeoverChannel) {
    this.#origin = origin;
    this.#ended = this.#read().catch(() => undefined);
    this.orphaned = this.#ended.then(() => {
      this.#pending?.reject(new PassfdError('ERR_TAKEOVER', `${THE_STARTER} has ended`));
      // After the end of this generation, the channel ends in good order.
      return this.#isOver ? new Promise<void>(() => undefined) : undefined;
    });
  }

  async next(timeoutMs: number): Promise<NextGeneration> {
    if (this.#pending) {
      throw new PassfdError('ERR_TAKEOVER', `${THE_STARTER} has not answered the last request yet`);
    }
    const next = new Promise<NextGeneration>((resolve, reject) => {
      const timer = setTimeout(() => {
        // A late answer is dropped.
        this.#pending = { resolve: abandon, reject: () => undefined };
        reject(
          new PassfdError(
            'ERR_TAKEOVER',
            `${THE_STARTER} did not answer within ${timeoutMs} ms (--ready-timeout)`,
          ),
        );
      }, timeoutMs);
      this.#pending = {
        resolve: (generation) => {
          clearTimeout(timer);
          resolve(generation);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
    });
    this.#origin.send({ type: 'wanted' }).catch(() => undefined); // the end of the channel rejects `next`
    return next;
  }

  async handOn({ pid }: NextGeneration): Promise<number> {
    this.#isOver = true;
    await this.#origin.send({ type: 'handed-over', pid });
    // The keeper closes the channel when it sends signals to the next generation. Those that came here before are passed on.
    await this.#ended;
    await setImmediate();
    this.close();
    return 0;
  }

  close(): void {
    this.#isOver = true;
    this.#origin[Symbol.dispose]();
  }

  async #read(): Promise<void> {
    for (let received = await this.#origin.receive(); received; received = await this.#origin.receive()) {
      const { message, descriptors } = received;
      const [descriptor] = descriptors;
      if (message.type === 'successor' && descriptor && this.#pending) {
        const { pid } = message;
        this.#pending.resolve({
          pid,
          channel: new TakeoverChannel(new StreamSocket(descriptor)),
          signal: (name) => {
            sendSignal(pid, name);
          },
        });
      } else {
        closeAll(descriptors);
        const reason = message.type === 'failed' ? message.reason : `It sent ${message.type}`;
        this.#pending?.reject(new PassfdError('ERR_TAKEOVER', reason));
      }
      this.#pending = undefined;
    }
  }
}

/** Its process sees the end of the channel, and exits. */
function abandon({ channel }: NextGeneration): void {
  channel[Symbol.dispose]();
}

/** To a process that may have exited. */
function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has exited.
  }
}
