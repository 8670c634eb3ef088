// SocketDiagnostics: asks the kernel about connections of which no descriptor is open here any more.
import { Descriptor } from './descriptor.js';
import { IDENTITY_BYTES, native } from './native.js';

/** A TCP or Unix connection as the kernel knows it; it says nothing to others. */
export interface SocketIdentity {
  readonly bytes: Uint8Array;
}

/**
 * Linux only (sock_diag(7)); a connection is looked up by its addresses, or its inode, and its cookie, so no other is taken
 * for it.
 */
export class SocketDiagnostics implements Disposable {
  readonly #descriptor: Descriptor;

  private constructor(descriptor: Descriptor) {
    this.#descriptor = descriptor;
  }

  /** @returns undefined where the kernel cannot be asked */
  static open(): SocketDiagnostics | undefined {
    const result = native.openDiagnostics();
    return result < 0 ? undefined : new SocketDiagnostics(new Descriptor(result));
  }

  /** @returns undefined for what is no connected TCP or Unix socket; whether the kernel finds it is not asked */
  static identityOf(descriptor: Descriptor): SocketIdentity | undefined {
    const bytes = new Uint8Array(IDENTITY_BYTES);
    return native.identify(descriptor.fd, bytes) < 0 ? undefined : { bytes };
  }

  /** @returns undefined for what is no connected TCP or Unix socket, or one that the kernel does not find */
  identify(descriptor: Descriptor): SocketIdentity | undefined {
    const identity = SocketDiagnostics.identityOf(descriptor);
    // It is held at this moment, by the descriptor here. Where the kernel says otherwise (another network namespace, a
    // socket bound to a device, no tcp_diag or unix_diag), its answers would later be taken for a connection that was closed.
    return identity && this.isHeld(identity) === true ? identity : undefined;
  }

  /** Whether some process has a descriptor of it open; undefined when the kernel does not tell. */
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
