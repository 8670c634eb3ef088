// ControlClient: a command's connection to a running dispatcher, with one answer for each request.
import { PassfdError } from '../fd/index.js';
import { hasHungUp, isErrorCode } from '../fd/internal.js';
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

/** The longest answer: a status with about ten thousand workers. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/** Time for an answer that the dispatcher gives at once. The dispatcher, or the machine, may be busy. */
const ANSWER_TIMEOUT_MS = 30_000;

/** Takeovers that one request can outlast. */
const MAX_TRIES = 10;

export class ControlClient implements Disposable {
  readonly #connect: () => Promise<Connection>;
  #connection: Connection;

  private constructor(connection: Connection, connect: () => Promise<Connection>) {
    this.#connection = connection;
    this.#connect = connect;
  }

  /**
   * @throws {PassfdError} `ERR_CONNECTION_REFUSED` when no dispatcher listens there, `ERR_PEER_DENIED` when it is not
   * trusted; or as `Client`
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
   * A request that takes long has no time limit, so a status is requested first: it finds a dispatcher that hangs.
   * @param onProgress gets the progress reports of the dispatcher
   * @throws {PassfdError} the error that the dispatcher answers with; `ERR_NO_ANSWER` after 30 s
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
        throw new PassfdError('ERR_BUSY', 'The dispatcher was replaced several times meanwhile; try again');
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
   * Stops the dispatcher. Resolves when it closes the connection, which is the last thing it does. If another generation
   * takes over meanwhile, that one is stopped.
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

/** Whether the dispatcher answers this request at once. */
function isQuick({ type }: CommandMessage): boolean {
  return type === 'status' || type === 'stop';
}

function ignore(): void {
  // Progress is of no interest.
}

function noAnswer(pid: number, timeoutMs: number): PassfdError {
  return new PassfdError(
    'ERR_NO_ANSWER',
    `The dispatcher did not answer within ${timeoutMs} ms: it is suspended, or hangs. Its control socket was opened by process ${pid}; ` +
      `inspect it with: ps -o pid,stat,pcpu,args -p ${pid}`,
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

/** A dispatcher that hangs up sends the reason first. The next read returns it. */
async function sendUnlessGone(connection: Connection, frame: Buffer): Promise<void> {
  await connection.sendBytes(frame).catch((error: unknown) => {
    if (!(error instanceof PassfdError && error.code === 'ERR_PEER_GONE')) throw error;
  });
}

/** @throws {PassfdError} the error that the dispatcher answers with */
export function answerIn(frame: Buffer): Exclude<Answer, { reason: string }> {
  refuseChallenge(frame);
  const answer = decodeAnswer(frame);
  if (!('reason' in answer)) return answer;
  // A newer dispatcher may have codes that this release does not know.
  throw new PassfdError(isErrorCode(answer.code) ? answer.code : 'ERR_DISPATCHER', answer.reason);
}

/** After a stop: the dispatcher has hung up, or the control socket is closed. */
function isOver(error: unknown): boolean {
  return hasHungUp(error) || (error instanceof PassfdError && error.code === 'ERR_CONNECTION_REFUSED');
}

/** A dispatcher gives a client that it does not let in no reason. */
function hungUp(cause: PassfdError): PassfdError {
  return new PassfdError(
    cause.code,
    `The dispatcher hung up without an answer. It has just exited, or it does not let this user in: ${ALLOW}`,
    { cause },
  );
}

const USER = process.getuid?.() ?? 0;
const ALLOW = `run this command as the user of the dispatcher, or start the dispatcher with --allow-uid ${USER}`;

/** @returns the error of a connection that failed, with what to do about it */
export function explain(cause: unknown, path: string, hasKey: boolean): unknown {
  if (!(cause instanceof PassfdError)) return cause;
  const { code, message } = cause;
  switch (code) {
    case 'ERR_CONNECTION_REFUSED':
    case 'ERR_ADDRESS_MISSING':
      return new PassfdError(
        'ERR_CONNECTION_REFUSED',
        `No dispatcher at ${path}; start one with passfd run or passfd serve, or give its path with --control PATH`,
        { cause },
      );
    case 'ERR_ADDRESS_DENIED':
      return new PassfdError(code, `User ${USER} may not connect to ${path}; ${ALLOW}`, { cause });
    case 'ERR_HANDSHAKE_TIMEOUT':
      return hasKey
        ? new PassfdError(
            code,
            `${message} If the dispatcher was started without --authkey-file, give no key here`,
            {
              cause,
            },
          )
        : cause;
    default:
      return cause;
  }
}
