// HttpClient: sends HTTP/1 byte by byte as a test says, and tells each answer that comes back, and how it ended.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { connect as connectSecure } from 'node:tls';

export interface Answer {
  readonly status: number;
  /** What it says of the connection, in small letters. */
  readonly connection: string | undefined;
  readonly body: string;
}

export class HttpClient implements Disposable {
  readonly socket: Socket;
  /** Whole answers that nobody has asked for yet. */
  readonly answers: Answer[] = [];
  /** Settles when the connection is closed, which it is when the other end has ended it; with an error's code, or ''. */
  readonly ended: Promise<string>;
  #heard = '';
  #isOver = false;
  #wake: (() => void) | undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    this.ended = new Promise((resolve) => {
      let code = '';
      socket.on('error', (error: NodeJS.ErrnoException) => {
        code ||= error.code ?? error.message;
      });
      socket.once('close', () => {
        this.#parse(true);
        this.#isOver = true;
        this.#wake?.();
        resolve(code);
      });
    });
    socket.on('data', (chunk: Buffer) => {
      this.#heard += chunk.toString('latin1');
      this.#parse(false);
    });
  }

  /** @param ca the server's certificate, for a secure connection */
  static async connect(port: number, ca?: Buffer): Promise<HttpClient> {
    const target = { host: '127.0.0.1', port };
    const socket = ca ? connectSecure({ ...target, ca, servername: 'localhost' }) : connect(target);
    await once(socket, ca ? 'secureConnect' : 'connect');
    return new HttpClient(socket);
  }

  send(text: string): void {
    this.socket.write(text, 'latin1');
  }

  /** A whole request, `GET` unless the text says otherwise. */
  ask(path: string, ...headers: readonly string[]): void {
    this.send(request(path, ...headers));
  }

  /** The next answer. Rejects when the connection ends without one. */
  async answer(): Promise<Answer> {
    for (;;) {
      const answer = this.answers.shift();
      if (answer) return answer;
      if (this.#isOver) throw new Error(`No answer, but: ${(await this.ended) || 'the end'}`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }

  #parse(isEnd: boolean): void {
    for (;;) {
      const found = parse(this.#heard, isEnd);
      if (!found) return;
      this.#heard = found.rest;
      // An answer that only says to go on is none yet.
      if (found.answer.status >= 200 || found.answer.status === 101) this.answers.push(found.answer);
      this.#wake?.();
    }
  }
}

/** The bytes of a request without a body. */
export function request(path: string, ...headers: readonly string[]): string {
  return [`GET ${path} HTTP/1.1`, 'Host: x', ...headers, '', ''].join('\r\n');
}

function parse(heard: string, isEnd: boolean): { answer: Answer; rest: string } | undefined {
  const end = heard.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const [first = '', ...lines] = heard.slice(0, end).split('\r\n');
  const headers = new Map(lines.map((line) => line.toLowerCase().split(': ', 2) as [string, string]));
  const content = contentOf(heard.slice(end + 4), headers, isEnd);
  if (!content) return undefined;
  const status = Number(first.split(' ')[1]);
  return {
    answer: { status, connection: headers.get('connection'), body: content.body },
    rest: content.rest,
  };
}

function contentOf(
  text: string,
  headers: ReadonlyMap<string, string>,
  isEnd: boolean,
): { body: string; rest: string } | undefined {
  const length = Number(headers.get('content-length') ?? 0);
  if (headers.get('transfer-encoding') === 'chunked') {
    const last = text.indexOf('0\r\n\r\n');
    if (last < 0) return undefined;
    const body = text.slice(0, last).replaceAll(/[0-9a-f]+\r\n(.*?)\r\n/gs, '$1');
    return { body, rest: text.slice(last + 5) };
  }
  if (headers.has('content-length')) {
    if (text.length < length) return undefined;
    return { body: text.slice(0, length), rest: text.slice(length) };
  }
  if (headers.get('connection') === 'close') return isEnd ? { body: text, rest: '' } : undefined;
  return { body: '', rest: text };
}
