// Notifier: notifies the service manager (sd_notify(3)). Without a manager it does nothing.
import { closeAll, Descriptor, MAX_DESCRIPTORS, PassfdError, sendDatagram, socketPair } from '../fd/index.js';
import { MAX_TIMER_MS } from '../fd/internal.js';
import { parseCount, takeVariables } from './environment.js';
import { isDescriptorName } from './descriptor-name.js';

/** Messages that wait while the manager's queue is full. Further ones are dropped with a warning. */
const MAX_WAITING = 256;

/** Pause before the next attempt when the queue is full: the kernel does not report when it has room. */
const FIRST_RETRY_MS = 1;
const LAST_RETRY_MS = 100;

/** Default time limit of a barrier. The manager may be busy. */
const BARRIER_TIMEOUT_MS = 5_000;

const MICROSECONDS_PER_MS = 1_000;
const NANOSECONDS_PER_MICROSECOND = 1_000n;

const variables = ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID', 'FDSTORE'] as const;

/** The variables that the next generation of this service needs. */
export type NotifyVariables = Readonly<Partial<Record<(typeof variables)[number], string>>>;

export interface NotifierOptions {
  /** Called when the manager could not be notified. Nothing else follows from it. Default: a process warning. */
  readonly warn?: (error: PassfdError) => void;
  /** Sends a message. Default: as a datagram. */
  readonly send?: typeof sendDatagram;
}

/** A descriptor that is lent with a message: it stays open here. */
type Lent = { readonly fd: number };

interface Message {
  readonly bytes: Buffer;
  readonly lent: readonly Lent[];
  /** Called when it will never arrive. */
  readonly onLost?: () => void;
}

/** It waits with duplicates, so that the lender may close its own. */
type Waiting = Message & { readonly lent: readonly Descriptor[] };

export class Notifier implements Disposable {
  readonly #environment: NotifyVariables;
  readonly #path: string | undefined;
  readonly #keepAliveMs: number | undefined;
  readonly #warn: (error: PassfdError) => void;
  readonly #sendDatagram: typeof sendDatagram;
  #waiting: Waiting[] = [];
  #retry: NodeJS.Timeout | undefined;
  #retryMs = FIRST_RETRY_MS;
  #keepAlive: NodeJS.Timeout | undefined;
  /** Whether a warning was given since the manager was last reached. */
  #hasWarned = false;

  /**
   * Reads the manager's variables and removes them, so that no child notifies in the place of this process. A second notifier
   * for the same environment does nothing.
   */
  constructor(
    env: NodeJS.ProcessEnv = process.env,
    options: NotifierOptions = {},
    pid: number = process.pid,
  ) {
    const { NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, FDSTORE } = takeVariables(env, variables);
    this.#warn = options.warn ?? emitWarning;
    this.#sendDatagram = options.send ?? sendDatagram;
    this.#path = this.#pathOf(NOTIFY_SOCKET);
    const isWatched = WATCHDOG_PID === undefined || WATCHDOG_PID === String(pid);
    this.#keepAliveMs = isWatched ? keepAliveMs(WATCHDOG_USEC) : undefined;
    this.#environment = {
      ...(NOTIFY_SOCKET !== undefined && { NOTIFY_SOCKET }),
      ...(isWatched && WATCHDOG_USEC !== undefined && { WATCHDOG_USEC }),
      ...(FDSTORE !== undefined && { FDSTORE }),
    };
  }

  /** Whether there is a manager that can be notified. */
  get isActive(): boolean {
    return this.#path !== undefined;
  }

  /**
   * For the environment of the next generation, and of no other process. It has no `WATCHDOG_PID`: the pid is not known
   * before the start, and without the variable, `WATCHDOG_USEC` counts for any process (sd_watchdog_enabled(3)). It has no
   * `LISTEN_PID`: listening sockets reach the next generation by the takeover.
   */
  environment(): NotifyVariables {
    return this.#environment;
  }

  /** The service has started, or has loaded its configuration again. */
  ready(): void {
    this.#notify('READY=1');
  }

  /** The service begins to load its configuration again. `ready` ends that. */
  reloading(): void {
    // The manager compares this with its own CLOCK_MONOTONIC, which is the same clock (clock_gettime(2)).
    const now = process.hrtime.bigint() / NANOSECONDS_PER_MICROSECOND;
    this.#notify('RELOADING=1', `MONOTONIC_USEC=${now}`);
  }

  /** The service begins to stop. This is final: systemd 259 accepts no other state after it. */
  stopping(): void {
    this.#notify('STOPPING=1');
  }

  /** Another process is the main process from now on. The manager restarts the service when that one exits. */
  mainPid(pid: number): void {
    this.#notify(`MAINPID=${pid}`);
  }

  /**
   * Sends keep-alives from now on, at half the interval of the manager's watchdog. Does nothing without a watchdog
   * (`WATCHDOG_USEC`). Does not keep the process alive.
   */
  startKeepAlive(): void {
    if (this.#keepAliveMs === undefined || this.#path === undefined) return;
    this.#keepAlive ??= setInterval(() => {
      // A waiting message counts as a keep-alive when it arrives.
      if (this.#waiting.length === 0) this.#notify('WATCHDOG=1');
    }, this.#keepAliveMs).unref();
  }

  /**
   * Has the manager keep duplicates, which the next process of this service inherits under this name. It needs
   * `FileDescriptorStoreMax=`: without it, the manager silently keeps none. A descriptor that it has already is kept once.
   *
   * The manager drops a descriptor with POLLHUP or POLLERR. A listening socket gets these only when it is shut down, and then
   * it is of no use. So `FDPOLL=0` is never sent.
   * @throws {TypeError} for an invalid name
   */
  store(name: string, descriptors: readonly Lent[]): void {
    checkName(name);
    for (let start = 0; start < descriptors.length; start += MAX_DESCRIPTORS) {
      const lent = descriptors.slice(start, start + MAX_DESCRIPTORS);
      this.#send({ bytes: encode(['FDSTORE=1', `FDNAME=${name}`]), lent });
    }
  }

  /** Has the manager close the descriptors that it keeps under this name. @throws {TypeError} for an invalid name */
  removeStored(name: string): void {
    checkName(name);
    this.#notify('FDSTOREREMOVE=1', `FDNAME=${name}`);
  }

  /**
   * Waits until the manager has read everything that was sent before. Without it, a message of a process that has exited by
   * the time it is read, and is not the main process, is ignored.
   * @param timeoutMs default: 5000
   * @returns whether the manager has read it. True without a manager
   */
  async barrier(timeoutMs: number = BARRIER_TIMEOUT_MS): Promise<boolean> {
    if (this.#path === undefined) return true;
    let isLost = false;
    try {
      const [here, there] = socketPair();
      using ours = here;
      {
        // The manager closes its end when it reads this message. Then our end becomes readable.
        using theirs = there;
        const onLost = (): void => {
          isLost = true;
        };
        this.#send({ bytes: encode(['BARRIER=1']), lent: [theirs], onLost });
      }
      await ours.untilReadable({ signal: AbortSignal.timeout(timeoutMs) });
    } catch (cause) {
      const why = cause instanceof PassfdError ? cause.message : `it has not read it within ${timeoutMs} ms`;
      this.#warn(notifyError(`The service manager may have missed notifications: ${why}`, cause));
      return false;
    }
    return !isLost;
  }

  /** Stops the keep-alives, and drops messages that wait. */
  close(): void {
    clearInterval(this.#keepAlive);
    this.#keepAlive = undefined;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    for (const waiting of this.#waiting.splice(0)) lose(waiting);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #pathOf(address: string | undefined): string | undefined {
    if (address === undefined || address === '') return undefined;
    if (address.startsWith('/')) return address;
    if (address.startsWith('@') && address.length > 1) return `\0${address.slice(1)}`;
    this.#warn(
      new PassfdError(
        'ERR_UNSUPPORTED',
        `The service manager cannot be notified: only a path or an abstract name is supported in NOTIFY_SOCKET, not ${address}`,
      ),
    );
    return undefined;
  }

  #notify(...assignments: readonly string[]): void {
    this.#send({ bytes: encode(assignments), lent: [] });
  }

  /** Sends in the order of the calls, at once if the manager has room. */
  #send(message: Message): void {
    if (this.#path === undefined) return;
    if (this.#waiting.length === 0 && this.#sendNow(message)) return;
    try {
      this.#wait(message);
    } catch (error) {
      this.#fail(message, error);
    }
  }

  /** @returns false when the message must wait */
  #sendNow(message: Message): boolean {
    try {
      const isSent = this.#sendDatagram(this.#path ?? '', message.bytes, message.lent);
      if (!isSent) return false;
      this.#hasWarned = false;
    } catch (error) {
      this.#fail(message, error);
    }
    return true;
  }

  #wait(message: Message): void {
    if (this.#waiting.length === MAX_WAITING) {
      throw new Error(`${MAX_WAITING} messages wait for the service manager to read`);
    }
    this.#waiting.push({ ...message, lent: duplicates(message.lent) });
    this.#retryLater();
  }

  #retryLater(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#retryMs = Math.min(this.#retryMs * 2, LAST_RETRY_MS);
      this.#continue();
    }, this.#retryMs).unref();
  }

  #continue(): void {
    for (let waiting = this.#waiting[0]; waiting; waiting = this.#waiting[0]) {
      if (!this.#sendNow(waiting)) {
        this.#retryLater();
        return;
      }
      this.#waiting.shift();
      closeAll(waiting.lent);
      this.#retryMs = FIRST_RETRY_MS;
    }
  }

  /** A missing manager is no reason to exit, and one warning is enough. */
  #fail(message: Message, cause: unknown): void {
    message.onLost?.();
    if (this.#hasWarned) return;
    this.#hasWarned = true;
    const what = message.bytes.toString().replaceAll('\n', ' ');
    const why = cause instanceof Error ? cause.message : String(cause);
    this.#warn(notifyError(`The service manager could not be notified (${what}): ${why}`, cause));
  }
}

function lose(waiting: Waiting): void {
  waiting.onLost?.();
  closeAll(waiting.lent);
}

/** Half of the watchdog's interval, as sd_watchdog_enabled(3) recommends. */
function keepAliveMs(timeoutUs: string | undefined): number | undefined {
  const timeout = parseCount(timeoutUs, Number.MAX_SAFE_INTEGER);
  if (timeout === undefined || timeout === 0) return undefined;
  return Math.min(Math.max(Math.floor(timeout / 2 / MICROSECONDS_PER_MS), 1), MAX_TIMER_MS);
}

function encode(assignments: readonly string[]): Buffer {
  return Buffer.from(assignments.join('\n'));
}

function checkName(name: string): void {
  if (isDescriptorName(name)) return;
  throw new TypeError(
    `A name in the descriptor store has 1 to 255 ASCII characters, without ":" and control characters: ${JSON.stringify(name)}`,
  );
}

function duplicates(lent: readonly Lent[]): Descriptor[] {
  const made: Descriptor[] = [];
  try {
    for (const { fd } of lent) made.push(duplicate(fd));
    return made;
  } catch (error) {
    closeAll(made);
    throw error;
  }
}

function duplicate(fd: number): Descriptor {
  const borrowed = new Descriptor(fd);
  try {
    return borrowed.duplicate();
  } finally {
    borrowed.release();
  }
}

function notifyError(message: string, cause: unknown): PassfdError {
  return new PassfdError(cause instanceof PassfdError ? cause.code : 'ERR_SYSTEM', message, { cause });
}

function emitWarning(error: PassfdError): void {
  process.emitWarning(error.message, { type: 'PassfdWarning', code: error.code });
}
