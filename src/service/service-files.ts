// ServiceFiles: restores the sockets and the journal of a service when somebody removes their files.
import type { Dispatcher } from '../dispatcher/index.js';
import { PassfdError } from '../fd/index.js';
import { FileGuard } from './file-guard.js';
import { journalPath } from './journal.js';
import type { Life } from './life.js';
import { hasFile } from './listen-address.js';
import { ofError } from './log-events.js';
import type { Log } from './log.js';
import type { Roster } from './roster.js';

export interface FileParts {
  readonly dispatcher: Dispatcher;
  readonly roster: Roster;
  readonly life: Life;
  readonly log: Log;
}

export class ServiceFiles implements Disposable {
  readonly #parts: FileParts;
  readonly #guard = new FileGuard(() => this.#restore());
  /** Reasons that the log has already. */
  #logged: readonly string[] = [];

  constructor(controlPath: string, parts: FileParts) {
    this.#parts = parts;
    this.#guard.add(controlPath);
    this.#guard.add(journalPath(controlPath));
    parts.dispatcher.on('listening', (address) => {
      if (hasFile(address)) this.#guard.add(address.path);
    });
    parts.dispatcher.on('unlistened', (address) => {
      if (hasFile(address)) this.#guard.remove(address.path);
    });
  }

  [Symbol.dispose](): void {
    this.#guard[Symbol.dispose]();
  }

  /** A failure of one does not keep the others from being restored. */
  async #restore(): Promise<void> {
    const { dispatcher, roster, life, log } = this.#parts;
    if (!roster.isOpen || life.isEnding) return;
    const restored = await Promise.allSettled([
      new Promise<void>((resolve) => {
        this.#restoreJournal();
        resolve();
      }),
      dispatcher.restoreFiles(),
    ]);
    const failures = restored.flatMap((one) => (one.status === 'rejected' ? [ofError(one.reason)] : []));
    for (const failure of failures) {
      // The guard tries again every two seconds.
      if (this.#logged.includes(failure.reason)) continue;
      log.error(failure, 'a file of this service was removed, and cannot be restored');
    }
    this.#logged = failures.map(({ reason }) => reason);
  }

  /** @throws when it cannot be restored */
  #restoreJournal(): void {
    const found = this.#parts.roster.check();
    if (found === 'restored') this.#parts.log.warn('journal was missing; written anew');
    if (found !== 'displaced') return;
    throw new PassfdError(
      'ERR_ADDRESS_IN_USE',
      'Another dispatcher, or its workers, have the journal: stop one of the two services, which do not know each other',
    );
  }
}
