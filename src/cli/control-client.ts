// ControlClient: a command's connection to a running dispatcher, one answer for each request.
import { PassfdError, type ErrorCode } from '../fd/index.js';
import { encodeHello, PROTOCOL_VERSION, refuseChallenge, type CommandMessage } from '../handoff/index.js';
import { Client, type Connection } from '../multiprocessing/index.js';

/** Longest answer: a status with some ten thousand workers. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/** Generations that may take over, one after the other, while one request is asked. */
const MAX_TRIES = 10;

export class ControlClient implements Disposable {
  readonly #connect: () => Promise<Connection>;
  #connection: Connection;

  private constructor(connection: Connection, connect: () => Promise<Connection>) {
    this.#connection = connection;
    this.#connect = connect;
  }

  /** @throws {PassfdError} `ERR_CONNECTION_REFUSED` when no dispatcher is there; or as `Client` */
  static async connect(path: string, authkey: string | undefined): Promise<ControlClient> {
    const connect = (): Promise<Connection> => introduce(path, authkey);
    return new ControlClient(await connect(), connect);
  }

  /**
   * @param onProgress what the dispatcher tells meanwhile
   * @throws {PassfdError} what the dispatcher answers when it cannot do it
   */
  async ask(request: CommandMessage, onProgress: (text: string) => void = () => undefined): Promise<unknown> {
    for (let tries = 0; ; tries++) {
      await this.#send(Buffer.from(JSON.stringify(request)));
      const answer = await this.#hear(onProgress);
      if (answer !== 'again') return answer.result;
      if (tries === MAX_TRIES) {
        throw new PassfdError('ERR_DISPATCHER', 'The dispatcher was replaced again and again; try once more');
      }
      this.#connection.close();
      this.#connection = await this.#connect();
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

async function introduce(path: string, authkey: string | undefined): Promise<Connection> {
  const connection = await Client(path, {
    maxFrameBytes: MAX_ANSWER_BYTES,
    ...(authkey !== undefined && { authkey }),
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

/** What a dispatcher says to a command. */
export type Answer =
  | { readonly type: 'done'; readonly result: unknown }
  | { readonly type: 'progress'; readonly text: string }
  | { readonly type: 'again' };

/** @throws {PassfdError} what the dispatcher says when it cannot do what it was asked for */
export function answerIn(frame: Buffer): Answer {
  refuseChallenge(frame);
  const { type, result, text, code, reason } = objectIn(frame);
  if (type === 'done') return { type, result };
  if (type === 'again') return { type };
  if (type === 'progress' && typeof text === 'string') return { type, text };
  throw new PassfdError(
    (typeof code === 'string' ? code : 'ERR_DISPATCHER') as ErrorCode,
    typeof reason === 'string' ? reason : 'The dispatcher gave an answer that is not understood',
  );
}

function objectIn(frame: Buffer): Readonly<Record<string, unknown>> {
  let answer: unknown;
  try {
    answer = JSON.parse(frame.toString());
  } catch (cause) {
    throw new PassfdError('ERR_PROTOCOL', 'The answer of the dispatcher is not JSON', { cause });
  }
  if (typeof answer === 'object' && answer !== null) return answer as Record<string, unknown>;
  throw new PassfdError('ERR_PROTOCOL', 'The answer of the dispatcher is not an object');
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
