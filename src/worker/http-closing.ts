// HttpClosing: ends the HTTP/1 connections of a server, each after an answer with `Connection: close`.
import { subscribe } from 'node:diagnostics_channel';
import { IncomingMessage, type ServerResponse } from 'node:http';
import { Socket, type Server } from 'node:net';

/**
 * A client that still sends when its connection is closed gets a reset, and can lose the answer too. So the connection
 * stays open until the client closes it, or has sent nothing for this time (RFC 9112, 9.6).
 */
const LINGER_MS = 2_000;

interface Connection {
  /** The response to the newest request, until it is complete. */
  newest: ServerResponse | undefined;
  /** Whether more requests may be in the packet that is being read. Node emits them one by one, in one tick. */
  isReading: boolean;
  /** Whether an answer has announced that it is the last of the connection. */
  isLast: boolean;
}

/** What Node publishes of each request: before the app gets it, and when it is answered (diagnostics_channel, `http.server`). */
interface Exchange {
  readonly server: Server;
  readonly socket: Socket;
  readonly response: ServerResponse;
}

/** Any of the forms that `writeHead` has. */
interface Head {
  writeHead(...parts: unknown[]): unknown;
}

type Emit = (event: string | symbol, ...args: unknown[]) => boolean;

const known = new WeakMap<Server, HttpClosing>();
let isSubscribed = false;

export class HttpClosing {
  readonly #server: Server;
  readonly #connections = new Map<Socket, Connection>();
  #isDraining = false;

  /** Make it before the server gets connections. Otherwise it would not know which requests have no answer yet. */
  constructor(server: Server) {
    this.#server = server;
    known.set(server, this);
    if (isSubscribed) return;
    isSubscribed = true;
    subscribe('http.server.request.start', (message) => {
      const { server: from, socket, response } = message as Exchange;
      const closing = known.get(from);
      if (closing) closing.#onRequest(socket, response);
    });
    subscribe('http.server.response.finish', (message) => {
      const { server: from, socket, response } = message as Exchange;
      const closing = known.get(from);
      if (closing) closing.#onAnswered(socket, response);
    });
  }

  /** From now on each answer is the last of its connection, unless its head is already sent or another request follows. */
  drain(): void {
    this.#isDraining = true;
    for (const [socket, connection] of this.#connections) {
      if (connection.newest) this.#watch(socket, connection, connection.newest);
    }
    this.#interceptEvents();
  }

  #onRequest(socket: Socket, response: ServerResponse): void {
    let connection = this.#connections.get(socket);
    if (!connection) {
      connection = { newest: undefined, isReading: false, isLast: false };
      this.#connections.set(socket, connection);
      socket.once('close', () => this.#connections.delete(socket));
    }
    if (connection.isLast) return;
    connection.newest = response;
    if (!this.#isDraining) return;
    connection.isReading = true;
    process.nextTick(() => {
      connection.isReading = false;
    });
    this.#watch(socket, connection, response);
  }

  #onAnswered(socket: Socket, response: ServerResponse): void {
    const connection = this.#connections.get(socket);
    if (connection?.newest === response) connection.newest = undefined;
  }

  /** Every head goes through `writeHead`, also one that the app does not write itself (`_implicitHeader` in lib/_http_server.js). */
  #watch(socket: Socket, connection: Connection, response: ServerResponse): void {
    const head = response as unknown as Head;
    const writeHead = head.writeHead.bind(response);
    head.writeHead = (...parts) => {
      const isLast =
        connection.newest === response &&
        !connection.isReading &&
        !response.headersSent &&
        parts[0] !== SWITCHING_PROTOCOLS;
      if (!isLast) return writeHead(...parts);
      const answered = writeHead(...saidToBeLast(response, parts));
      connection.isLast = true;
      linger(socket);
      return answered;
    };
  }

  /**
   * The app gets a request one tick later, when every request of the same packet is known. After an answer with
   * `Connection: close`, Node would drop the requests that follow.
   */
  #interceptEvents(): void {
    const server = this.#server as unknown as { emit: Emit };
    const emit = server.emit.bind(server);
    server.emit = (event, ...args) => {
      const [request, ...rest] = args;
      if (!(request instanceof IncomingMessage)) return emit(event, ...args);
      const connection = this.#connections.get(request.socket);
      switch (event) {
        case 'request':
        case 'checkContinue':
        case 'checkExpectation':
          // A request after the last answer is not served. Its client repeats it on a new connection (RFC 9112, 9.6).
          if (connection?.isLast) request.resume();
          else process.nextTick(emit, event, request, ...rest);
          return true;
        case 'upgrade':
        case 'connect':
          // The connection is the app's from now on. An answer that is still to come must not end it.
          if (connection) connection.newest = undefined;
          return emit(event, ...args);
        default:
          return emit(event, ...args);
      }
    };
  }
}

const SWITCHING_PROTOCOLS = 101;

/** The arguments of `writeHead`, with `Connection: close` in place of the app's own `Connection`. */
function saidToBeLast(response: ServerResponse, parts: readonly unknown[]): unknown[] {
  response.shouldKeepAlive = false;
  const [status, ...rest] = parts;
  const reason = typeof rest[0] === 'string' ? [rest.shift()] : [];
  const headers = rest.find((part) => typeof part === 'object' && part !== null);
  const before = response.getHeader('connection');
  if (!headers) {
    response.setHeader('Connection', withClose(before));
    return [status, ...reason];
  }
  const entries = entriesOf(headers);
  const own = entries.findLast(([name]) => isConnection(name))?.[1] ?? before;
  const others = entries.filter(([name]) => !isConnection(name));
  return [status, ...reason, inFormOf(headers, [...others, ['Connection', withClose(own)]])];
}

type Entry = readonly [name: unknown, value: unknown];

/** The headers may be an object, a list of pairs, or a flat list (http, `response.writeHead`). */
function entriesOf(headers: object): Entry[] {
  if (!Array.isArray(headers)) return Object.entries(headers);
  const list: readonly unknown[] = headers;
  if (list.every((item) => Array.isArray(item))) return list as unknown as Entry[];
  return list.flatMap((name, index): Entry[] => (index % 2 === 0 ? [[name, list[index + 1]]] : []));
}

function inFormOf(headers: object, entries: Entry[]): unknown {
  if (!Array.isArray(headers)) return Object.fromEntries(entries);
  return headers.length > 0 && headers.every((item) => Array.isArray(item)) ? entries : entries.flat();
}

function isConnection(name: unknown): boolean {
  return String(name).toLowerCase() === 'connection';
}

/** Keeps the other options of the connection: an answer with `Upgrade` must name it there (RFC 9110, 7.8). */
function withClose(value: unknown): string {
  const options = [value]
    .flat()
    .filter((part) => typeof part === 'string')
    .flatMap((part) => part.split(','))
    .map((option) => option.trim())
    .filter((option) => option !== '' && !/^(?:keep-alive|close)$/i.test(option));
  return [...options, 'close'].join(', ');
}

/** After the last answer, Node calls `destroySoon`, which would close at once, even while the client still sends. */
function linger(socket: Socket): void {
  // An app can emit 'connection' with any stream.
  if (!(socket instanceof Socket)) return;
  socket.destroySoon = () => {
    socket.end();
    socket.setTimeout(LINGER_MS);
    socket.once('timeout', () => socket.destroy());
  };
}
