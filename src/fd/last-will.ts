// LastWill: gives accepted connections to workers when this process dies, even by `kill -9`. See docs/architecture.md.
import { constants } from 'node:os';

import { PassfdError } from './errors.js';
import { native } from './native.js';
import { ProcessWatch } from './process-watch.js';
import { systemError } from './system-error.js';

const { errno } = constants;

/** Errors on systems that have no last will, or forbid it (seccomp). */
const unsupported: readonly number[] = [-errno.ENOSYS, -errno.EPERM, -errno.EACCES, -errno.EINVAL];

/** Flags of a channel, as in `native/will.h`. */
const IS_READY = 1;
const IS_PLAIN = 2;

/** Anything with a descriptor: a `Descriptor`, an `Acceptor`, a `StreamSocket`. It is lent. */
interface WithDescriptor {
  readonly fd: number;
}

/** What the will may send on the channel of a worker. */
export interface WillChannel {
  readonly isReady: boolean;
  /**
   * Whether the worker knows `orphaned` and AGAIN (docs/protocol.md). If not, connections that were being sent to it at the
   * moment of the death may be lost, but are never served twice.
   */
  readonly knowsAgain: boolean;
  /** The ids of the listeners that the worker serves. */
  readonly listeners: Iterable<number>;
}

/**
 * The last will of this process. When this process dies, even by `kill -9` or the OOM killer, every connection that it had
 * accepted and not handed out goes to the channels that were set here. A second process, `passfd-will`, waits for that.
 *
 * The will counts every open connection whose local address is that of a listener as accepted. So a process with a will must
 * not serve connections of these listeners itself, and must not keep duplicates of them.
 *
 * A process has at most one will, used on one thread. A process that changes its user must do so before.
 */
export class LastWill implements Disposable {
  #isOpen = true;
  readonly #watch: ProcessWatch | undefined;

  private constructor(onLost: () => void) {
    const { pid } = this;
    if (pid !== undefined) this.#watch = ProcessWatch.start(pid, onLost);
  }

  /**
   * Starts the process `passfd-will`.
   * @param onLost called when that process was killed. The will has no effect any more, and must still be cancelled.
   * @returns undefined where no will is possible: not Linux on x64 or arm64, or forbidden there
   * @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT`, `ERR_SYSTEM` (`EALREADY` when another will is not cancelled)
   */
  static open(onLost: () => void = () => undefined): LastWill | undefined {
    const result = native.willOpen();
    if (unsupported.includes(result)) return undefined;
    if (result < 0) throw systemError(result, 'clone', { descriptor: 'the descriptors of this process' });
    return new LastWill(onLost);
  }

  /** The id of the process `passfd-will`; undefined after `cancel`, or when that process was killed. */
  get pid(): number | undefined {
    const pid = this.#isOpen ? native.willPid() : 0;
    return pid === 0 ? undefined : pid;
  }

  /**
   * Assigns this id to connections whose local address is that of the listening socket. It holds until `removeListener`, even
   * when the socket is closed before, since connections that were accepted there may still wait for a worker.
   * @param id 0 to 65535
   * @throws {PassfdError} `ERR_SYSTEM` when 1024 listeners are set; then connections of this listener are lost
   */
  addListener(id: number, socket: WithDescriptor): void {
    this.#call('getsockname', () => native.willAddListener(id, socket.fd));
  }

  removeListener(id: number): void {
    this.#call('', () => native.willRemoveListener(id));
  }

  /**
   * Adds a socket that the will shuts down before anything else, for all its holders: a control socket, whose path a
   * successor wants at once.
   */
  closeFirst(socket: WithDescriptor): void {
    this.#call('close', () => native.willCloseFirst(socket.fd));
  }

  /**
   * Adds a channel that speaks the hand-off protocol, or updates it. Closing the socket removes it. A channel on which half a
   * message was sent when this process dies gets nothing.
   * @throws {PassfdError} `ERR_SYSTEM` when 1024 channels are set; then this channel gets nothing
   */
  setChannel(socket: WithDescriptor, { isReady, knowsAgain, listeners }: WillChannel): void {
    const ids = Int32Array.from(listeners);
    const flags = (isReady ? IS_READY : 0) | (knowsAgain ? 0 : IS_PLAIN);
    this.#call('', () => native.willSetChannel(socket.fd, flags, ids, ids.length));
  }

  /** Marks connections that an earlier process had sent to workers, and of which this process has descriptors. */
  handOut(connections: readonly WithDescriptor[]): void {
    const fds = Int32Array.from(connections, ({ fd }) => fd);
    this.#call('', () => native.willHandOut(fds, fds.length));
  }

  /** Marks connections as this process's own again: the worker that they were sent to refused them, or has left. */
  takeBack(connections: readonly WithDescriptor[]): void {
    const fds = Int32Array.from(connections, ({ fd }) => fd);
    this.#call('', () => native.willTakeBack(fds, fds.length));
  }

  /** Ends the process `passfd-will`; the will has no effect any more. A second call does nothing. */
  cancel(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#watch?.close();
    native.willCancel();
  }

  [Symbol.dispose](): void {
    this.cancel();
  }

  #call(syscall: string, call: () => number): void {
    if (!this.#isOpen) return;
    const result = call();
    if (result === -errno.ENOSPC) {
      throw new PassfdError(
        'ERR_SYSTEM',
        'The last will has no room for one more socket; connections that need it are lost if this process dies',
      );
    }
    if (result < 0) throw systemError(result, syscall, { descriptor: 'a descriptor of the last will' });
  }
}
