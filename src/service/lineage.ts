// Lineage: the processes of one service, one after the other. The first one starts the others and stays until the last
// ends; with a service manager, which watches whichever is the main one, each starts the next and ends.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { setImmediate } from 'node:timers/promises';

import { closeAll, Descriptor, PassfdError, socketPair, StreamSocket } from '../fd/index.js';
import { TakeoverChannel } from '../dispatcher/internal.js';
import { namedDirectory } from '../supervisor/index.js';
import { takeVariables } from '../systemd/index.js';
import { ownCommand } from './node-command.js';

/** In the environment of a generation that is to take over: the control path. */
const VARIABLE = 'PASSFD_SUCCESSION';

/** The descriptors of a new generation: its channels to the one before, and to the process that has started it. */
const PREDECESSOR_FD = 3;
const ORIGIN_FD = 4;

/** The next generation, as the present one sees it. */
export interface NextGeneration {
  readonly pid: number;
  /** To its process. */
  readonly channel: TakeoverChannel;
  /** One that has ended gets none. */
  readonly signal: (name: NodeJS.Signals) => void;
}

/** Has what comes from now on go to another process. */
export type PassSignals = (receiver: NextGeneration['signal']) => void;

/** The generation before, and who has started both. */
export interface Descent {
  /** Absolute: this generation may have been started in another directory, of the same name. */
  readonly control: string;
  readonly predecessor: TakeoverChannel;
  readonly origin: TakeoverChannel;
}

/** Undefined for the first generation. Taken once: what this process starts must not take it for its own. */
export function takeDescent(env: NodeJS.ProcessEnv = process.env): Descent | undefined {
  const { [VARIABLE]: control } = takeVariables(env, [VARIABLE]);
  if (control === undefined) return undefined;
  return { control, predecessor: channelAt(PREDECESSOR_FD), origin: channelAt(ORIGIN_FD) };
}

function channelAt(fd: number): TakeoverChannel {
  const descriptor = new Descriptor(fd);
  try {
    return new TakeoverChannel(new StreamSocket(descriptor.duplicate()));
  } finally {
    // The duplicate is close-on-exec; the one inherited cannot have been.
    descriptor.close();
  }
}

/** How a generation gets the next one. */
export interface Lineage {
  /**
   * Starts it with the same command as this one, anew: its code, its Node, its directory.
   * @throws {PassfdError} `ERR_TAKEOVER` when it cannot be started, or that takes longer
   */
  next(timeoutMs: number): Promise<NextGeneration>;
  /**
   * It is the dispatcher now, and signals that come here are passed on to it. Resolves with the exit code of this process,
   * when that has nothing more to do.
   * @param passSignals for one that outlives the next generation
   */
  handOn(next: NextGeneration, passSignals: PassSignals): Promise<number>;
  /** This generation is over. */
  close(): void;
}

/** A generation that this process has started. */
interface Started {
  readonly process: ChildProcess;
  readonly pid: number;
  /** To it. */
  readonly channel: TakeoverChannel;
  /** Resolves when it has ended. */
  readonly ended: Promise<void>;
}

const THE_STARTER = 'The process that starts generations';

/** What a shell makes of a signal that ended a program: this, and the number of the signal. */
const SIGNAL_EXIT_CODE = 128;

/** Time in which a generation that has taken over from one that was killed says so. */
const BEGIN_TIMEOUT_MS = 5_000;

/** The process that was started by a person, a shell or a container; or any generation under a service manager. */
export class Origin implements Lineage {
  readonly #env: NodeJS.ProcessEnv;
  readonly #stays: boolean;
  #next: Started | undefined;

  /**
   * @param control the absolute control path
   * @param env what the next generation has in its environment beside this process's own
   * @param stays false where a service manager watches over whichever process it is told is the main one
   */
  constructor(control: string, env: NodeJS.ProcessEnv, stays: boolean) {
    this.#env = { ...env, [VARIABLE]: control };
    this.#stays = stays;
  }

  async next(): Promise<NextGeneration> {
    const [here, there] = socketPair();
    using predecessor = there;
    try {
      const started = await start(predecessor.fd, this.#env);
      // Of a takeover that failed.
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
    // Nothing is open but what a keeper has, which lives on.
  }
}

/** The service manager has to know its new main process before the old one ends. */
async function leaveTo({ process: successor, channel }: Started): Promise<number> {
  // Signals that come until then are passed on.
  const said = await receive(channel);
  channel[Symbol.dispose]();
  // It is nobody's child from here on.
  successor.unref();
  return said ? 0 : 1;
}

/** A generation that took over from another one, and has the process that was started first beside it. */
export class Descendant implements Lineage {
  readonly #origin: TakeoverChannel;
  #pending: { resolve: (next: NextGeneration) => void; reject: (error: Error) => void } | undefined;
  /** Resolves when the process that has started all generations was killed: it stands for the service. */
  readonly orphaned: Promise<void>;
  /** Resolves when the channel to that process has ended. */
  readonly #ended: Promise<void>;
  #isOver = false;

  constructor(origin: TakeoverChannel) {
    this.#origin = origin;
    this.#ended = this.#read().catch(() => undefined);
    this.orphaned = this.#ended.then(() => {
      this.#pending?.reject(new PassfdError('ERR_TAKEOVER', `${THE_STARTER} is gone`));
      // As long as this generation is the present one, that means something.
      return this.#isOver ? new Promise<void>(() => undefined) : undefined;
    });
  }

  async next(timeoutMs: number): Promise<NextGeneration> {
    if (this.#pending) {
      throw new PassfdError('ERR_TAKEOVER', `${THE_STARTER} has not answered the last request yet`);
    }
    const next = new Promise<NextGeneration>((resolve, reject) => {
      const timer = setTimeout(() => {
        // An answer may still come, and is for nobody then.
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
    this.#origin.send({ type: 'wanted' }).catch(() => undefined); // the end of the channel tells it
    return next;
  }

  async handOn({ pid }: NextGeneration): Promise<number> {
    this.#isOver = true;
    await this.#origin.send({ type: 'handed-over', pid });
    // The keeper closes it when signals go to the next one; those that it has sent before are passed on from here.
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
    for (let said = await this.#origin.receive(); said; said = await this.#origin.receive()) {
      const { message, descriptors } = said;
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
        const reason = message.type === 'failed' ? message.reason : `It said ${message.type}`;
        this.#pending?.reject(new PassfdError('ERR_TAKEOVER', reason));
      }
      this.#pending = undefined;
    }
  }
}

/** A generation that the keeper listens to. */
interface Heard extends Started {
  /** Resolves when it has said that it is the dispatcher, or has nothing more to say. */
  readonly begun: Promise<void>;
  /** Resolves when it has nothing more to say. */
  readonly heard: Promise<void>;
}

/** The first process, when it is the dispatcher no more: passes signals on, starts generations, and ends with the last. */
class Keeper {
  readonly #env: NodeJS.ProcessEnv;
  readonly #passSignals: PassSignals;
  #current: Heard;
  #next: Heard | undefined;

  constructor(current: Started, env: NodeJS.ProcessEnv, passSignals: PassSignals) {
    this.#env = env;
    this.#passSignals = passSignals;
    this.#current = this.#hear(current);
  }

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
    for (let said = await receive(channel); said; said = await receive(channel)) {
      const { message, descriptors } = said;
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

  /** Both generations say so, since each can be killed in that moment. */
  #follow(pid: number): void {
    const next = this.#next;
    if (next?.pid !== pid) return;
    this.#next = undefined;
    this.#current = next;
    this.#passSignals((name) => {
      next.process.kill(name);
    });
  }

  /** Whether the generation that was to take over from one that has been killed had done so. If not, it ends by itself. */
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
      const next = this.#hear(await start(theirs.fd, this.#env));
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

/** @throws {PassfdError} `ERR_TAKEOVER` */
async function start(predecessorFd: number, env: NodeJS.ProcessEnv): Promise<Started> {
  const [here, there] = socketPair();
  using origin = there;
  const [program, ...args] = ownCommand();
  const child = spawn(program, args, {
    env: { ...process.env, ...env },
    cwd: namedDirectory(),
    stdio: ['inherit', 'inherit', 'inherit', predecessorFd, origin.fd],
    // In a session of its own: the Ctrl-C of a terminal is for this process, which passes it on.
    detached: true,
  });
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => {
      resolve();
    });
  });
  try {
    await once(child, 'spawn');
    return { process: child, pid: child.pid ?? 0, channel: new TakeoverChannel(here), ended };
  } catch (cause) {
    here.destroy();
    throw new PassfdError(
      'ERR_TAKEOVER',
      `The new generation cannot be started: ${(cause as Error).message}`,
      { cause },
    );
  }
}

/** Its process sees that the one before is not there, and ends. */
function abandon({ channel }: NextGeneration): void {
  channel[Symbol.dispose]();
}

/** What a generation said before it ended, in whatever way, is heard. */
function receive(channel: TakeoverChannel): ReturnType<TakeoverChannel['receive']> {
  return channel.receive().catch(() => undefined);
}

/** To a process that may have ended by now. */
function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended.
  }
}
