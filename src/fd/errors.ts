// The one error class of passfd, and the closed list of its codes.

/**
 * Every code that a `PassfdError` can carry, with its meaning in one sentence.
 * `docs/errors.md` has a row for each, saying what to do; a test compares the two.
 */
export const errorMeanings = {
  ERR_CLOSED: 'The socket, acceptor, connection or dispatcher was closed, or is used after its end.',
  ERR_DESCRIPTOR_CLOSED: 'The descriptor was used after it was closed or given away.',
  ERR_WRONG_KIND: 'The descriptor, or this end of a pipe, is not of the kind that was asked for.',
  ERR_NOT_PASSABLE: 'The object has no descriptor that another process could take over.',
  ERR_BYTES_ALREADY_READ:
    'Bytes of this connection were already read here, and would be lost to the receiver.',
  ERR_BYTES_UNSENT: 'Bytes written to this connection wait in this process, and would be lost.',
  ERR_NO_DESCRIPTOR_PASSING: 'This socket cannot carry descriptors: only Unix sockets can.',
  ERR_TOO_MANY_DESCRIPTORS: 'More descriptors in one message than the kernel takes.',
  ERR_DESCRIPTOR_MISSING: 'A descriptor was awaited with these bytes, and none came.',
  ERR_DESCRIPTORS_LOST:
    'The kernel could not install every descriptor of a message, so all of it were closed.',
  ERR_UNEXPECTED_DESCRIPTORS: 'Descriptors came where none belong, and were closed.',
  ERR_DESCRIPTOR_LIMIT: 'This process or this machine has no free descriptor left.',
  ERR_IN_FLIGHT_LIMIT: 'Too many descriptors of this user are in flight: sent, and not yet received.',
  ERR_PEER_GONE: 'The other end closed the connection or died.',
  ERR_ADDRESS: 'The address is not one that a socket can have.',
  ERR_ADDRESS_IN_USE: 'Someone else holds the address.',
  ERR_ADDRESS_DENIED: 'The address may not be used by this user.',
  ERR_ADDRESS_MISSING: 'The directory of the address does not exist, or nothing is at the address.',
  ERR_CONNECTION_REFUSED: 'Nobody accepts connections at the address.',
  ERR_SYSTEM: 'A system call failed in a way that has no code of its own; `cause` says which and how.',
  ERR_UNSUPPORTED: 'This platform or this version of Node cannot do it.',
  ERR_EOF: 'The other end closed the connection before what was awaited came.',
  ERR_FRAME: 'A frame broke the wire format, or the connection ended inside one.',
  ERR_FRAME_TOO_LARGE: 'A frame is longer than the reader allows.',
  ERR_HANDLE: 'A descriptor message broke the wire format.',
  ERR_AUTHENTICATION: 'The two ends do not share the key.',
  ERR_HANDSHAKE: 'The other end broke the rules of the handshake.',
  ERR_HANDSHAKE_TIMEOUT: 'The other end did not finish the handshake in time.',
  ERR_PICKLE: 'A pickle is malformed, or larger than the decoder allows.',
  ERR_PICKLE_REFUSED: 'A pickle holds more than data: it names code, which is never run here.',
  ERR_PICKLE_UNSUPPORTED: 'The value has no counterpart among the plain Python data types.',
  ERR_PEER_DENIED: 'The peer is of a user or group that is not allowed, or not trusted, here.',
  ERR_SLOW_CLOSE: 'Too many descriptors that a user has passed are slow to close.',
  ERR_HELLO: 'The first message on a control socket is none that is understood here.',
  ERR_PROTOCOL: 'A peer broke the hand-off protocol.',
  ERR_DISPATCHER: 'The dispatcher refused what was asked of it.',
  ERR_NO_ANSWER: 'The dispatcher did not answer a command in time.',
  ERR_ACTIVATION: 'What the service manager passed to this process is not what was announced or asked for.',
  ERR_TAKEOVER: 'The next generation of the dispatcher could not take over; the present one goes on.',
  ERR_WORKER_FAILED: 'A worker process did not start, ended before it was ready, or was not ready in time.',
} as const satisfies Record<string, string>;

/** One of the codes in `errorMeanings`. */
export type ErrorCode = keyof typeof errorMeanings;

/** An error of this library: `code` says which, the message what happened to what and what to do. */
export class PassfdError extends Error {
  override readonly name = 'PassfdError';
  readonly code: ErrorCode;

  /** @param options `cause` keeps the system error behind it, in Node's own shape. */
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}
