// SocketDiagnostics: asks the kernel whether any process still holds a connection that is closed here.
import { Descriptor } from './descriptor.js';
import { IDENTITY_BYTES, native } from './native.js';

/** Identifies a TCP or Unix connection to the kernel. The bytes are opaque. */
export interface SocketIdentity {
  readonly bytes: Uint8Array;
}

/**
 * Linux only (sock_diag(7)). The kernel finds a connection by its addresses or inode, and by its cookie, which no other
 * connection of the machine has.
 */
export class SocketDiagnostics implements Disposable {
  readonly #descriptor: Descriptor;

  private constructor(descriptor: Descriptor) {
    this.#descriptor = descriptor;
  }

  /** @returns undefined on systems that have no sock_diag, or when no descriptor is free */
  static open(): SocketDiagnostics | undefined {
    const result = native.openDiagnostics();
    return result < 0 ? undefined : new SocketDiagnostics(new Descriptor(result));
  }

  /** @returns undefined when it is not a connected TCP or Unix socket. It does not ask whether the kernel finds it. */
  static identityOf(descriptor: Descriptor): SocketIdentity | undefined {
    const bytes = new Uint8Array(IDENTITY_BYTES);
    return native.identify(descriptor.fd, bytes) < 0 ? undefined : { bytes };
  }

  /** @returns undefined when it is not a connected TCP or Unix socket, or the kernel does not find it */
  identify(descriptor: Descriptor): SocketIdentity | undefined {
    const identity = SocketDiagnostics.identityOf(descriptor);
    // The descriptor here holds the connection now. If the kernel says otherwise (another network namespace, a socket bound
    // to a device, no tcp_diag or unix_diag), its later answers would make an open connection look closed.
    return identity && this.isHeld(identity) === true ? identity : undefined;
  }

  /** Whether any process has a descriptor of the connection open; undefined when the kernel does not answer. */
  isHeld(identity: SocketIdentity): boolean | undefined {
    const result = native.isHeld(this.#descriptor.fd, identity.bytes);
    return result < 0 ? undefined : result === 1;
  }

  /** A second call does nothing. */
  close(): void {
    this.#descriptor.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
