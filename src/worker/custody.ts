// Custody: duplicates of the dispatcher's listening sockets. They keep the queues alive when the dispatcher dies.
import type { Descriptor } from '../fd/index.js';
import type { CustodyLabel } from '../handoff/index.js';

export interface Kept {
  readonly label: CustodyLabel;
  readonly descriptor: Descriptor;
}

/** A socket in custody. */
export interface InCustody extends Kept {
  /** Its id at the present dispatcher; undefined when that one has not given it. */
  readonly listener: number | undefined;
}

interface Entry extends Kept {
  listener: number | undefined;
  /** Whether the dispatcher has given another socket since then, and that one did not arrive. */
  isOutdated?: boolean;
}

export class Custody {
  /** By their keys. */
  readonly #kept = new Map<string, Entry>();

  get kept(): readonly Kept[] {
    return Array.from(this.#kept.values(), ({ label, descriptor }) => ({ label, descriptor }));
  }

  /** The socket with this key. */
  get(key: string): InCustody | undefined {
    return this.#kept.get(key);
  }

  /** The socket of a listener of the present dispatcher, when it is known to be the right one. */
  of(listener: number): InCustody | undefined {
    for (const kept of this.#kept.values()) {
      if (kept.listener === listener && kept.isOutdated !== true) return kept;
    }
    return undefined;
  }

  /**
   * Takes over a listening socket. It replaces the one with the same key.
   * @param listener its id at the present dispatcher
   */
  keep(listener: number, { label, descriptor }: Kept): void {
    const kept = this.#kept.get(label.key);
    if (kept?.descriptor.inode === descriptor.inode) {
      // The socket that is here may be in flight to the dispatcher at this moment, so it stays.
      this.#kept.set(label.key, { label, descriptor: kept.descriptor, listener });
      descriptor.close();
      return;
    }
    kept?.descriptor.close();
    this.#kept.set(label.key, { label, descriptor, listener });
  }

  /** A socket with this key was given and did not arrive. The one that is here may be another one. */
  noteLost(key: string): void {
    const kept = this.#kept.get(key);
    if (kept) kept.isOutdated = true;
  }

  /** Ids now come from another dispatcher. Every socket is kept until that one gives it again, or releases it. */
  forgetListeners(): void {
    for (const kept of this.#kept.values()) kept.listener = undefined;
  }

  /** Closes the sockets of these listeners. */
  release(listeners: readonly number[]): void {
    this.#close(({ listener }) => listener !== undefined && listeners.includes(listener));
  }

  /** Closes the sockets that the present dispatcher has not given. */
  releaseStale(): void {
    this.#close(({ listener }) => listener === undefined);
  }

  close(): void {
    this.#close(() => true);
  }

  #close(isOver: (kept: InCustody) => boolean): void {
    for (const [key, kept] of this.#kept) {
      if (!isOver(kept)) continue;
      kept.descriptor.close();
      this.#kept.delete(key);
    }
  }
}
