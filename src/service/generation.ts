// Starts the process of a new generation, and gives it its channels: to its predecessor, and to the process that started it.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';

import { TakeoverChannel } from '../dispatcher/internal.js';
import { Descriptor, PassfdError, socketPair, StreamSocket } from '../fd/index.js';
import { namedDirectory } from '../supervisor/internal.js';
import { takeVariables } from '../systemd/index.js';
import { ownCommand } from './node-command.js';

/** In the environment of a generation that takes over: the control path. */
const VARIABLE = 'PASSFD_SUCCESSION';

/** The descriptors of the two channels in the new process. */
const PREDECESSOR_FD = 3;
const ORIGIN_FD = 4;

/** Where a generation comes from. */
export interface Descent {
  /** Absolute: this generation may have been started in another directory of the same name. */
  readonly control: string;
  readonly predecessor: TakeoverChannel;
  /** To the process that started this generation. */
  readonly origin: TakeoverChannel;
}

/** Undefined in the first generation. A second call finds nothing, and neither do processes that this one starts. */
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
    // An inherited descriptor is not close-on-exec. The duplicate is.
    descriptor.close();
  }
}

/** A generation that this process started. */
export interface Started {
  readonly process: ChildProcess;
  readonly pid: number;
  readonly channel: TakeoverChannel;
  /** Resolves when its process has exited. */
  readonly ended: Promise<void>;
}

/** What a new generation has in its environment, beside the variables of this process. */
export function environmentFor(control: string, env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ...env, [VARIABLE]: control };
}

/**
 * Starts the command of this process again: with the code, the Node and the directory that are there now.
 * @param predecessorFd lent: the new generation's end of the channel to its predecessor
 * @throws {PassfdError} `ERR_TAKEOVER`
 */
export async function startGeneration(predecessorFd: number, env: NodeJS.ProcessEnv): Promise<Started> {
  const [here, there] = socketPair();
  using origin = there;
  const [program, ...args] = ownCommand();
  const child = spawn(program, args, {
    env: { ...process.env, ...env },
    cwd: namedDirectory(),
    stdio: ['inherit', 'inherit', 'inherit', predecessorFd, origin.fd],
    // In a session of its own: Ctrl-C in a terminal is for this process, which passes it on.
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

/** The next message; undefined at the end of the channel, however it ended. */
export function receive(channel: TakeoverChannel): ReturnType<TakeoverChannel['receive']> {
  return channel.receive().catch(() => undefined);
}
