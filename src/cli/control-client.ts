// ControlClient: a command's connection to a running dispatcher, one answer for each request.
import { PassfdError, type ErrorCode } from '../fd/index.js';
import { encodeHello, PROTOCOL_VERSION } from '../handoff/index.js';
import { Client, type Connection } from '../multiprocessing/index.js';

/** Longest answer: a status with some ten thousand workers. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/** What a listener with a key says first (Lib/multiprocessing/connection.py, `deliver_challenge`). */
const CHALLENGE = '#CHALLENGE#';

export type Request =
  | { readonly type: 'status' }
  | { readonly type: 'drain'; readonly worker: number }
  | { readonly type: 'stop' };

export class ControlClient implements Disposable {
  readonly #connection: Connection;

  private constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** @throws {PassfdError} `ERR_CONNECTION_REFUSED` when no dispatcher is there; or as `Client` */
  static async connect(path: string, authkey: string | undefined): Promise<ControlClient> {
    const connection = await Client(path, {
      maxFrameBytes: MAX_ANSWER_BYTES,
      ...(authkey !== undefined && { authkey }),
    }).catch((error: unknown) => {
      throw isNobodyThere(error) ? noDispatcher(path, error) : error;
    });
    const client = new ControlClient(connection);
    await client.#send(Buffer.from(encodeHello({ passfd: PROTOCOL_VERSION, role: 'control' })));
    return client;
  }

  /** @throws {PassfdError} what the dispatcher answers when it cannot do it */
  async ask(request: Request): Promise<unknown> {
    await this.#send(Buffer.from(JSON.stringify(request)));
    return resultOf(await this.#connection.recvBytes());
  }

  /** Resolves when the dispatcher has closed the connection: it has ended, or is about to. */
  async untilClosed(): Promise<void> {
    await this.#connection.poll(null);
  }

  [Symbol.dispose](): void {
    this.#connection.close();
  }

  /** A dispatcher that hangs up has said why before, and that is read with the answer. */
  async #send(frame: Buffer): Promise<void> {
    await this.#connection.sendBytes(frame).catch((error: unknown) => {
      if (!(error instanceof PassfdError && error.code === 'ERR_PEER_GONE')) throw error;
    });
  }
}

/** @throws {PassfdError} when it is no result */
export function resultOf(frame: Buffer): unknown {
  if (frame.subarray(0, CHALLENGE.length).toString() === CHALLENGE) {
    throw new PassfdError(
      'ERR_AUTHENTICATION',
      'The dispatcher asks for a key; give the one that it was started with, by --authkey-file FILE or PASSFD_AUTHKEY',
    );
  }
  const { type, result, code, reason } = objectIn(frame);
  if (type === 'done') return result;
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

function isNobodyThere(error: unknown): boolean {
  return (
    error instanceof PassfdError &&
    (error.code === 'ERR_CONNECTION_REFUSED' || error.code === 'ERR_ADDRESS_MISSING')
  );
}

function noDispatcher(path: string, cause: unknown): PassfdError {
  return new PassfdError(
    'ERR_CONNECTION_REFUSED',
    `No dispatcher is at ${path}; start one by passfd run or passfd serve, or say where it is by --control PATH`,
    { cause },
  );
}
