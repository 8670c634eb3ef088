// TcpClient: out in the world, a plain Node socket to a server whose workers answer everyone with their own words.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

import type { Acceptor } from '../../src/fd/index.js';

const LARGE_BYTES = 1_048_576;

export class TcpClient implements Disposable {
  readonly socket: Socket;
  /** Where the server sees it come from. */
  readonly port: number;
  readonly #chunks: AsyncIterator<Buffer>;

  constructor(socket: Socket) {
    this.socket = socket;
    this.port = socket.localPort ?? 0;
    // Who hears next is told.
    socket.on('error', () => undefined);
    this.#chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  static async connect(port: number): Promise<TcpClient> {
    const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    await once(socket, 'connect');
    return new TcpClient(socket);
  }

  /** Says a word, and waits until the whole of it comes back. */
  async echo(word: string | Buffer): Promise<void> {
    const said = Buffer.from(word);
    this.socket.write(said);
    assert.equal(hash(await this.#hear(said.length)), hash(said));
  }

  /** Ends its side, and waits until the other end ends too, without another word. */
  async hangUp(): Promise<void> {
    this.socket.end();
    assert.equal((await this.#hear(1)).toString(), '');
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }

  /** At least so many bytes, or what comes before the end. */
  async #hear(length: number): Promise<Buffer> {
    const heard: Buffer[] = [];
    for (let missing = length; missing > 0;) {
      const { value, done } = (await this.#chunks.next()) as IteratorResult<Buffer, undefined>;
      if (done === true) break;
      heard.push(value);
      missing -= value.length;
    }
    return Buffer.concat(heard);
  }
}

/** Connects, says the words one after the other, hears each come back, and hangs up. */
export async function talk(port: number, ...words: readonly (string | Buffer)[]): Promise<void> {
  using client = await TcpClient.connect(port);
  for (const word of words) await client.echo(word);
  await client.hangUp();
}

/** A few clients at the same time, each with some words of its own. */
export async function talkAtOnce(port: number, count: number): Promise<void> {
  await Promise.all(Array.from({ length: count }, (_, index) => talk(port, `hello ${index}`, 'again')));
}

/** Many clients at the same time, each with some words of its own, and then a MiB of its own. */
export async function talkMuchAtOnce(port: number, count: number): Promise<void> {
  const talks = Array.from({ length: count }, (_, index) =>
    talk(port, `hello ${index}`, 'again', randomBytes(LARGE_BYTES)),
  );
  await Promise.all(talks);
}

export function portOf({ address }: Acceptor): number {
  assert.ok('port' in address);
  return address.port;
}

/** What two payloads are compared by, so that a difference does not print them. */
function hash(bytes: Buffer): string {
  return `${bytes.length} bytes ${createHash('sha256').update(bytes).digest('hex')}`;
}
