// Custody: the dispatcher's listening sockets, kept here and never used, so that they live on should it die.
import type { Descriptor } from '../fd/index.js';
import type { CustodyLabel } from '../handoff/index.js';

export interface Kept {
  readonly label: CustodyLabel;
  readonly descriptor: Descriptor;
}

export class Custody {
  /** By their keys. */
  readonly #kept = new Map<string, Kept & { listener: number | undefined }>();

  get kept(): readonly Kept[] {
    return Array.from(this.#kept.values(), ({ label, descriptor }) => ({ label, descriptor }));
  }

  /**
   * Takes over a listening socket, in place of the one with the same key.
   * @param listener its number at the present dispatcher
   */
  keep(listener: number, { label, descriptor }: Kept): void {
    const kept = this.#kept.get(label.key);
    if (kept?.descriptor.inode === descriptor.inode) {
      // The one that is here may be on its way to the dispatcher at this moment.
      this.#kept.set(label.key, { label, descriptor: kept.descriptor, listener });
      descriptor.close();
      return;
    }
    kept?.descriptor.close();
    this.#kept.set(label.key, { label, descriptor, listener });
  }

  /** The numbers are those of another dispatcher from here on. All are kept until that one has given them anew. */
  forgetListeners(): void {
    for (const kept of this.#kept.values()) kept.listener = undefined;
  }

  /** They are closed, and nobody needs them. */
  release(listeners: readonly number[]): void {
    this.#close(({ listener }) => listener !== undefined && listeners.includes(listener));
  }

  /** What the present dispatcher has not given is not needed. */
  releaseStale(): void {
    this.#close(({ listener }) => listener === undefined);
  }

  close(): void {
    this.#close(() => true);
  }

  #close(isOver: (kept: { readonly listener: number | undefined }) => boolean): void {
    for (const [key, kept] of this.#kept) {
      if (!isOver(kept)) continue;
      kept.descriptor.close();
      this.#kept.delete(key);
    }
  }
}
