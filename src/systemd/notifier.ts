// Notifier: what this service tells its manager (sd_notify(3)). Without a manager it does nothing.
import { closeAll, Descriptor, MAX_DESCRIPTORS, PassfdError, sendDatagram, socketPair } from '../fd/index.js';
import { MAX_TIMER_MS } from '../fd/internal.js';
import { parseCount, takeVariables } from './environment.js';
import { isDescriptorName } from './descriptor-name.js';

/** Messages that wait while the manager's queue is full; what comes then is lost, and a warning says so. */
const MAX_WAITING = 256;

/** Pause before the next try when the queue is full: the kernel does not tell when it is not. */
const FIRST_RETRY_MS = 1;
const LAST_RETRY_MS = 100;

/** The time that a barrier waits, unless it is given; the manager itself may be busy. */
const BARRIER_TIMEOUT_MS = 5_000;

const MICROSECONDS_PER_MS = 1_000;
const NANOSECONDS_PER_MICROSECOND = 1_000n;

const variables = ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID', 'FDSTORE'] as const;

/** What the next generation of this service has to have in its environment. */
export type NotifyVariables = Readonly<Partial<Record<(typeof variables)[number], string>>>;

export interface NotifierOptions {
  /** Told when something could not be notified; nothing else follows from it. A process warning unless it is given. */
  readonly warn?: (error: PassfdError) => void;
  /** Another way than a datagram. */
  readonly send?: typeof sendDatagram;
}

/** Whatever is lent with a message: it stays open here. */
type Lent = { readonly fd: number };

interface Message {
  readonly bytes: Buffer;
  readonly lent: readonly Lent[];
  /** It will never arrive. */
  readonly onLost?: () => void;
}

/** Waits with duplicates, so that the lender may close his own. */
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
  /** Of a manager that cannot be reached; once until it can. */
  #hasWarned = false;

  /**
   * Reads the variables by which the manager told where it is to be notified, and removes them, so that no child speaks
   * for this process. A second one over the same environment does nothing.
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
   * For the environment of the process that is to take this one's place, and of no other. It has no `WATCHDOG_PID`, since
   * without one whoever has `WATCHDOG_USEC` is meant (sd_watchdog_enabled(3)), and its pid is not known before it is
   * started; and no `LISTEN_PID`, since listening sockets reach it in another way.
   */
  environment(): NotifyVariables {
    return this.#environment;
  }

  /** The service has started, or has loaded its configuration again. */
  ready(): void {
    this.#tell('READY=1');
  }

  /** It begins to load its configuration again; `ready` says when that is done. */
  reloading(): void {
    // The manager compares this with its own clock, which is the same one (clock_gettime(2), CLOCK_MONOTONIC).
    const now = process.hrtime.bigint() / NANOSECONDS_PER_MICROSECOND;
    this.#tell('RELOADING=1', `MONOTONIC_USEC=${now}`);
  }

  /** It begins to end. For good: systemd 259 does not let it come back from that. */
  stopping(): void {
    this.#tell('STOPPING=1');
  }

  /** Another process is the service's main one from now on; the manager restarts the service when that ends. */
  mainPid(pid: number): void {
    this.#tell(`MAINPID=${pid}`);
  }

  /**
   * Tells the manager from now on that the event loop runs, twice in the time after which it would end this service. Does
   * nothing where it does not watch (`WATCHDOG_USEC`). Keeps no process alive.
   */
  startKeepAlive(): void {
    if (this.#keepAliveMs === undefined || this.#path === undefined) return;
    this.#keepAlive ??= setInterval(() => {
      // What waits says by itself that the event loop runs, as soon as the manager hears it.
      if (this.#waiting.length === 0) this.#tell('WATCHDOG=1');
    }, this.#keepAliveMs).unref();
  }

  /**
   * Has the manager keep duplicates, which the next process of this service inherits under this name. That needs
   * `FileDescriptorStoreMax=`; without it the manager silently keeps none. One that it has already is kept once.
   *
   * The manager gives up what it sees POLLHUP or POLLERR on. A listening socket has neither until somebody shuts it down,
   * and then it is of no use: so it is never told not to look (`FDPOLL=0`).
   * @throws {TypeError} for a name that it does not take
   */
  store(name: string, descriptors: readonly Lent[]): void {
    checkName(name);
    for (let start = 0; start < descriptors.length; start += MAX_DESCRIPTORS) {
      const lent = descriptors.slice(start, start + MAX_DESCRIPTORS);
      this.#send({ bytes: encode(['FDSTORE=1', `FDNAME=${name}`]), lent });
    }
  }

  /** Has it close all that it keeps under this name. @throws {TypeError} for a name that it does not take */
  removeStored(name: string): void {
    checkName(name);
    this.#tell('FDSTOREREMOVE=1', `FDNAME=${name}`);
  }

  /**
   * Waits until the manager has read everything that was sent before: what a process sends that is not its main one, and
   * has ended by the time it is read, counts for nothing.
   * @returns whether it has; without a manager there is nothing to wait for
   */
  async barrier(timeoutMs: number = BARRIER_TIMEOUT_MS): Promise<boolean> {
    if (this.#path === undefined) return true;
    let isLost = false;
    try {
      const [here, there] = socketPair();
      using ours = here;
      {
        // The manager closes its own when it comes to this message; that is what ends ours.
        using theirs = there;
        const onLost = (): void => {
          isLost = true;
        };
        this.#send({ bytes: encode(['BARRIER=1']), lent: [theirs], onLost });
      }
      await ours.untilReadable({ signal: AbortSignal.timeout(timeoutMs) });
    } catch (cause) {
      const why = cause instanceof PassfdError ? cause.message : `it has not read it in ${timeoutMs} ms`;
      this.#warn(notifyError(`The service manager may not know what was sent to it: ${why}`, cause));
      return false;
    }
    return !isLost;
  }

  /** Ends the keep-alives, and gives up what waits. */
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

  #tell(...assignments: readonly string[]): void {
    this.#send({ bytes: encode(assignments), lent: [] });
  }

  /** In the order of the calls, and at once where the manager has room. */
  #send(message: Message): void {
    if (this.#path === undefined) return;
    if (this.#waiting.length === 0 && this.#sendNow(message)) return;
    try {
      this.#wait(message);
    } catch (error) {
      this.#fail(message, error);
    }
  }

  /** @returns false when it has to wait */
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

  /** A manager that is not there is no reason to end, and to say so for each message would help nobody. */
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

/** Half of the time after which the manager takes this process for stuck, as sd_watchdog_enabled(3) recommends. */
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
    `A name in the descriptor store is 1 to 255 ASCII characters, without ":" and control characters: ${JSON.stringify(name)}`,
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
