// LastWill: what becomes of accepted connections when this process dies, however it does. See docs/architecture.md.
import { constants } from 'node:os';

import { PassfdError } from './errors.js';
import { native } from './native.js';
import { ProcessWatch } from './process-watch.js';
import { systemError } from './system-error.js';

const { errno } = constants;

/** What a system says that has no wills, or forbids one (seccomp). */
const unsupported: readonly number[] = [-errno.ENOSYS, -errno.EPERM, -errno.EACCES, -errno.EINVAL];

/** Flags of a channel, as `will.h` has them. */
const IS_READY = 1;
const IS_PLAIN = 2;

/** Anything with a descriptor: a `Descriptor`, an `Acceptor`, a `StreamSocket`. It is lent. */
interface WithDescriptor {
  readonly fd: number;
}

/** What a worker's channel may get. */
export interface WillChannel {
  readonly isReady: boolean;
  /**
   * Whether the worker knows `orphaned` and AGAIN (docs/protocol.md). One that does not loses, rather than serves twice,
   * what was about to be sent to it in the moment of the death.
   */
  readonly knowsAgain: boolean;
  /** Ids of the listeners that the worker serves. */
  readonly listeners: Iterable<number>;
}

/**
 * The last will of this process: when it dies, even by `kill -9` or for want of memory, every connection that it had
 * accepted and not handed out goes to the channels that were set here. Another process, `passfd-will`, waits for that.
 *
 * A connection counts as accepted when its own address is that of a listener, and it is open here. So with a will, this
 * process must neither serve connections of these listeners itself, nor keep duplicates of them.
 *
 * One in a process, and used on one thread. Where this process changes its user, it does so before.
 */
export class LastWill implements Disposable {
  #isOpen = true;
  readonly #watch: ProcessWatch | undefined;

  private constructor(onLost: () => void) {
    const { pid } = this;
    if (pid !== undefined) this.#watch = ProcessWatch.start(pid, onLost);
  }

  /**
   * Starts the process that waits.
   * @param onLost called when somebody has killed it: this one has no will any more, and is still to be cancelled
   * @returns nothing where that cannot be: not on Linux with x64 or arm64, or forbidden there
   * @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT`, `ERR_SYSTEM`, for one when the last one is not cancelled (`EALREADY`)
   */
  static open(onLost: () => void = () => undefined): LastWill | undefined {
    const result = native.willOpen();
    if (unsupported.includes(result)) return undefined;
    if (result < 0) throw systemError(result, 'clone', { descriptor: 'the descriptors of this process' });
    return new LastWill(onLost);
  }

  /** The process that waits; undefined when it is over, because of `cancel` or because somebody killed it. */
  get pid(): number | undefined {
    const pid = this.#isOpen ? native.willPid() : 0;
    return pid === 0 ? undefined : pid;
  }

  /**
   * Connections that come, or came, to the address of a listening socket are of this id. That holds until the listener is
   * removed, though the socket be closed before: what was accepted there may still wait for a worker.
   * @param id 0 to 65535
   * @throws {PassfdError} `ERR_SYSTEM` when there are so many (1024) that what comes to this one is lost
   */
  addListener(id: number, socket: WithDescriptor): void {
    this.#call('getsockname', () => native.willAddListener(id, socket.fd));
  }

  removeListener(id: number): void {
    this.#call('', () => native.willRemoveListener(id));
  }

  /**
   * A control socket, whose path the successor wants at once: clients are refused before anything else is done. It is shut
   * down, for others who hold it too.
   */
  closeFirst(socket: WithDescriptor): void {
    this.#call('close', () => native.willCloseFirst(socket.fd));
  }

  /**
   * A channel that speaks the hand-off protocol; a second call says what has changed. When it is closed, it is removed.
   * One that has been sent a part of a message when this process dies gets nothing.
   * @throws {PassfdError} `ERR_SYSTEM` when there are so many (1024) that this one gets nothing
   */
  setChannel(socket: WithDescriptor, { isReady, knowsAgain, listeners }: WillChannel): void {
    const ids = Int32Array.from(listeners);
    const flags = (isReady ? IS_READY : 0) | (knowsAgain ? 0 : IS_PLAIN);
    this.#call('', () => native.willSetChannel(socket.fd, flags, ids, ids.length));
  }

  /** Workers have them, or are about to: another process had sent them, and this one has its own descriptors of them. */
  handOut(connections: readonly WithDescriptor[]): void {
    const fds = Int32Array.from(connections, ({ fd }) => fd);
    this.#call('', () => native.willHandOut(fds, fds.length));
  }

  /** They were sent as a hand-off, and are this process's again: the worker refused them, or has left. */
  takeBack(connections: readonly WithDescriptor[]): void {
    const fds = Int32Array.from(connections, ({ fd }) => fd);
    this.#call('', () => native.willTakeBack(fds, fds.length));
  }

  /** This process ends well, and has nothing to leave. Nothing is done when it has ended, and nobody waits any more. */
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
        'The last will has no room for one more socket: what is left out is lost',
      );
    }
    if (result < 0) throw systemError(result, syscall, { descriptor: 'a descriptor of the last will' });
  }
}
