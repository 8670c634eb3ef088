// ControlClient: a command's connection to a running dispatcher, one answer for each request.
import { PassfdError } from '../fd/index.js';
import { isErrorCode } from '../fd/internal.js';
import {
  checkDispatcher,
  decodeAnswer,
  encodeHello,
  PROTOCOL_VERSION,
  refuseChallenge,
  trustedUsers,
  type Answer,
  type CommandMessage,
  type TrustedUsers,
} from '../handoff/index.js';
import { Client, type Connection } from '../multiprocessing/index.js';

/** Longest answer: a status with some ten thousand workers. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/** Time in which a dispatcher says what it need not wait for. It may be busy, and so may its machine. */
const ANSWER_TIMEOUT_MS = 30_000;

/** Generations that may take over, one after the other, while one request is asked. */
const MAX_TRIES = 10;

export class ControlClient implements Disposable {
  readonly #connect: () => Promise<Connection>;
  #connection: Connection;

  private constructor(connection: Connection, connect: () => Promise<Connection>) {
    this.#connection = connection;
    this.#connect = connect;
  }

  /**
   * @throws {PassfdError} `ERR_CONNECTION_REFUSED` when no dispatcher is there, `ERR_PEER_DENIED` when it is not trusted;
   * or as `Client`
   */
  static async connect(
    path: string,
    authkey: string | undefined,
    trusted: TrustedUsers = trustedUsers(),
  ): Promise<ControlClient> {
    const connect = (): Promise<Connection> => introduce(path, authkey, trusted);
    return new ControlClient(await connect(), connect);
  }

  /**
   * What takes long is asked of a dispatcher that answers: one that hangs is found by a status before.
   * @param onProgress what the dispatcher tells meanwhile
   * @throws {PassfdError} what the dispatcher answers when it cannot do it; `ERR_NO_ANSWER`
   */
  async ask(request: CommandMessage, onProgress: (text: string) => void = () => undefined): Promise<unknown> {
    if (isQuick(request)) return this.#ask(request, ignore, ANSWER_TIMEOUT_MS);
    await this.#ask({ type: 'status' }, ignore, ANSWER_TIMEOUT_MS);
    return this.#ask(request, onProgress);
  }

  async #ask(
    request: CommandMessage,
    onProgress: (text: string) => void,
    timeoutMs?: number,
  ): Promise<unknown> {
    for (let tries = 0; ; tries++) {
      await this.#send(Buffer.from(JSON.stringify(request)));
      const answer = await this.#inTime(timeoutMs, this.#hear(onProgress));
      if (answer !== 'again') return answer.result;
      if (tries === MAX_TRIES) {
        throw new PassfdError('ERR_BUSY', 'The dispatcher was replaced again and again; try once more');
      }
      this.#connection.close();
      this.#connection = await this.#connect();
    }
  }

  /** @throws {PassfdError} `ERR_NO_ANSWER`; then the connection is closed */
  async #inTime<T>(timeoutMs: number | undefined, answer: Promise<T>): Promise<T> {
    if (timeoutMs === undefined) return answer;
    const { socket } = this.#connection;
    const timer = setTimeout(() => {
      socket.destroy(noAnswer(socket.peer.pid, timeoutMs));
    }, timeoutMs);
    try {
      return await answer;
    } finally {
      clearTimeout(timer);
    }
  }

  /** @returns `again` when another generation took over before it was done */
  async #hear(onProgress: (text: string) => void): Promise<'again' | { readonly result: unknown }> {
    for (;;) {
      const frame = await this.#connection.recvBytes().catch((error: unknown) => {
        throw hasHungUp(error) ? hungUp(error) : error;
      });
      const answer = answerIn(frame);
      if (answer.type === 'done') return { result: answer.result };
      if (answer.type === 'again') return 'again';
      onProgress(answer.text);
    }
  }

  /**
   * Has the dispatcher stop, and resolves when it has ended, or is about to: it has closed the connection. Where another
   * generation takes over meanwhile, that has to end.
   */
  async stop(): Promise<void> {
    await this.ask({ type: 'stop' });
    try {
      while (await this.#isReplaced()) await this.ask({ type: 'stop' });
    } catch (error) {
      if (!isOver(error)) throw error;
    }
  }

  async #isReplaced(): Promise<boolean> {
    const answer = answerIn(await this.#connection.recvBytes());
    if (answer.type !== 'again') return false;
    this.#connection.close();
    this.#connection = await this.#connect();
    return true;
  }

  [Symbol.dispose](): void {
    this.#connection.close();
  }

  async #send(frame: Buffer): Promise<void> {
    await sendUnlessGone(this.#connection, frame);
  }
}

/** Whether a dispatcher answers it at once. */
function isQuick({ type }: CommandMessage): boolean {
  return type === 'status' || type === 'stop';
}

function ignore(): void {
  // The caller does not want to hear of progress.
}

function noAnswer(pid: number, timeoutMs: number): PassfdError {
  return new PassfdError(
    'ERR_NO_ANSWER',
    `The dispatcher did not answer within ${timeoutMs} ms: it is stopped, or hangs. The process ${pid} has opened its socket; ` +
      `look at it: ps -o pid,stat,pcpu,args -p ${pid}`,
  );
}

async function introduce(
  path: string,
  authkey: string | undefined,
  trusted: TrustedUsers,
): Promise<Connection> {
  const connection = await Client(path, {
    maxFrameBytes: MAX_ANSWER_BYTES,
    ...(authkey !== undefined && { authkey }),
    checkPeer: (peer) => {
      checkDispatcher(path, peer, trusted);
    },
  }).catch((error: unknown) => {
    throw explain(error, path, authkey !== undefined);
  });
  await sendUnlessGone(connection, Buffer.from(encodeHello({ passfd: PROTOCOL_VERSION, role: 'control' })));
  return connection;
}

/** A dispatcher that hangs up has said why before, and that is read with the answer. */
async function sendUnlessGone(connection: Connection, frame: Buffer): Promise<void> {
  await connection.sendBytes(frame).catch((error: unknown) => {
    if (!(error instanceof PassfdError && error.code === 'ERR_PEER_GONE')) throw error;
  });
}

/** @throws {PassfdError} what the dispatcher says when it cannot do what it was asked for */
export function answerIn(frame: Buffer): Exclude<Answer, { reason: string }> {
  refuseChallenge(frame);
  const answer = decodeAnswer(frame);
  if (!('reason' in answer)) return answer;
  // A newer dispatcher may have codes that this release does not know.
  throw new PassfdError(isErrorCode(answer.code) ? answer.code : 'ERR_DISPATCHER', answer.reason);
}

/** Behind a stop: the dispatcher has hung up, or the next generation had done so already. */
function isOver(error: unknown): boolean {
  return hasHungUp(error) || (error instanceof PassfdError && error.code === 'ERR_CONNECTION_REFUSED');
}

function hasHungUp(error: unknown): error is PassfdError {
  return error instanceof PassfdError && (error.code === 'ERR_EOF' || error.code === 'ERR_PEER_GONE');
}

/** Whoever is not let in is told nothing. */
function hungUp(cause: PassfdError): PassfdError {
  return new PassfdError(
    cause.code,
    `The dispatcher hung up without an answer; unless it has just ended, it does not let this user in: ${ALLOW}`,
    { cause },
  );
}

const USER = process.getuid?.() ?? 0;
const ALLOW = `ask as the user who has started it, or have it started with --allow-uid ${USER}`;

/** @returns what to tell of a connection that failed: also what to do here */
export function explain(cause: unknown, path: string, hasKey: boolean): unknown {
  if (!(cause instanceof PassfdError)) return cause;
  const { code, message } = cause;
  switch (code) {
    case 'ERR_CONNECTION_REFUSED':
    case 'ERR_ADDRESS_MISSING':
      return new PassfdError(
        'ERR_CONNECTION_REFUSED',
        `No dispatcher is at ${path}; start one by passfd run or passfd serve, or say where it is by --control PATH`,
        { cause },
      );
    case 'ERR_ADDRESS_DENIED':
      return new PassfdError(code, `User ${USER} may not connect to ${path}; ${ALLOW}`, { cause });
    case 'ERR_HANDSHAKE_TIMEOUT':
      return hasKey
        ? new PassfdError(code, `${message} Where it was started without --authkey-file, give no key here`, {
            cause,
          })
        : cause;
    default:
      return cause;
  }
}
