// The one error class of passfd, and the closed list of its codes.

/**
 * Every code of a `PassfdError`, with its meaning in one sentence.
 * `docs/errors.md` has a row for each code, and says what to do. A test compares the two.
 */
export const errorMeanings = {
  ERR_CLOSED: 'The socket, acceptor, connection or dispatcher is closed.',
  ERR_DESCRIPTOR_CLOSED: 'The descriptor was already closed or given away.',
  ERR_WRONG_KIND:
    'The descriptor is of another kind than the call needs, or this end of a pipe has the other direction.',
  ERR_NOT_PASSABLE: 'The object has no descriptor that can be passed to another process.',
  ERR_BYTES_ALREADY_READ:
    'Bytes of this connection were already read here, and the receiver would not get them.',
  ERR_BYTES_UNSENT: 'Bytes written to this connection are not sent yet, and would be lost.',
  ERR_NO_DESCRIPTOR_PASSING: 'This socket cannot carry descriptors: only Unix sockets can.',
  ERR_TOO_MANY_DESCRIPTORS: 'The message has more descriptors than the kernel accepts in one message.',
  ERR_DESCRIPTOR_MISSING: 'A descriptor was expected with these bytes, and none arrived.',
  ERR_DESCRIPTORS_LOST: 'The kernel could not install every descriptor of a message, so all were closed.',
  ERR_UNEXPECTED_DESCRIPTORS: 'Descriptors arrived where none were expected, and were closed.',
  ERR_DESCRIPTOR_LIMIT: 'This process or this machine has no free descriptor left.',
  ERR_IN_FLIGHT_LIMIT: 'Too many descriptors of this user are in flight: sent, and not yet received.',
  ERR_PEER_GONE: 'The other end closed the connection or died.',
  ERR_ADDRESS: 'The address is not valid.',
  ERR_ADDRESS_IN_USE: 'Another socket has the address.',
  ERR_ADDRESS_DENIED: 'This user may not use the address.',
  ERR_ADDRESS_MISSING: 'The directory of the address does not exist, or no socket is at the address.',
  ERR_CONNECTION_REFUSED: 'No process accepts connections at the address.',
  ERR_SYSTEM:
    'A system call failed with an error that has no code of its own; `cause` has the call and the error.',
  ERR_UNSUPPORTED: 'This platform or this version of Node cannot do it.',
  ERR_EOF: 'The other end closed the connection before the expected bytes came.',
  ERR_FRAME: 'A frame broke the wire format, or the connection ended inside a frame.',
  ERR_FRAME_TOO_LARGE: 'A frame is longer than the reader allows.',
  ERR_HANDLE: 'A descriptor message broke the wire format.',
  ERR_AUTHENTICATION: 'The two ends do not have the same key.',
  ERR_HANDSHAKE: 'The other end broke the rules of the handshake.',
  ERR_HANDSHAKE_TIMEOUT: 'The other end did not finish the handshake in time.',
  ERR_PICKLE: 'A pickle is malformed, or larger than the decoder allows.',
  ERR_PICKLE_REFUSED: 'A pickle names code, which passfd never runs.',
  ERR_PICKLE_UNSUPPORTED: 'The value has no counterpart among the plain Python data types.',
  ERR_PEER_DENIED: 'The user or group of the peer is not allowed, or not trusted.',
  ERR_SLOW_CLOSE: 'Too many descriptors that a user has passed are slow to close.',
  ERR_HELLO: 'The first message on a control socket was not understood.',
  ERR_PROTOCOL: 'A peer broke the hand-off protocol.',
  ERR_DISPATCHER:
    'The dispatcher ended the channel of a worker, or gave a reason that this release has no code for.',
  ERR_QUOTA: 'Too many workers, control connections or addresses are open, in all or of one user.',
  ERR_NO_WORKER: 'There is no worker of this number, or this service starts no workers.',
  ERR_NO_ADDRESS: 'The dispatcher has no address of its own for a worker to serve.',
  ERR_LISTEN:
    'The dispatcher could not listen at the address that a worker asked for; `cause` has the code of the system error.',
  ERR_ALREADY_OPEN: 'The dispatcher has a control socket of this kind already.',
  ERR_BUSY: 'A start, a restart or a takeover is running, and this must wait for it.',
  ERR_LAST_WILL: 'The process that holds the last will of the dispatcher was killed.',
  ERR_NO_ANSWER: 'The dispatcher did not answer a command in time.',
  ERR_ACTIVATION: 'The sockets from the service manager are not those that were announced or asked for.',
  ERR_TAKEOVER: 'The next generation of the dispatcher could not take over; the present one keeps serving.',
  ERR_WORKER_FAILED: 'A worker process did not start, ended before it was ready, or was not ready in time.',
} as const satisfies Record<string, string>;

/** One of the codes in `errorMeanings`. */
export type ErrorCode = keyof typeof errorMeanings;

/** Whether this release knows the code. Another release, at the other end of a connection, may have more codes. */
export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(errorMeanings, code);
}

/** An error of passfd. `code` identifies it; the message says what happened, to what, and what to do. */
export class PassfdError extends Error {
  override readonly name = 'PassfdError';
  readonly code: ErrorCode;

  /** @param options `cause` is the system error that led to this one, in the shape of Node's own. */
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** Whether the other end closed the connection or died. */
export function hasHungUp(error: unknown): error is PassfdError {
  return error instanceof PassfdError && (error.code === 'ERR_EOF' || error.code === 'ERR_PEER_GONE');
}
