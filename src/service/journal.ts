// Journal: the file beside the control socket that names the service and its workers, for the next dispatcher after a crash.
// A lock on it proves that its dispatcher is alive.
import { constants, fstatSync, lstatSync, openSync, rmSync } from 'node:fs';

import { Descriptor, PassfdError } from '../fd/index.js';
import { Hold, isSameProcess, lockFile, processIdentity } from '../fd/internal.js';
import { traceStep } from '../handoff/index.js';
import {
  isHere,
  pidSpace,
  readRecord,
  survivorsIn,
  writeRecord,
  type JournalContents,
  type Survivor,
} from './journal-records.js';
import { describeService, isSameService, type ServiceName } from './service-name.js';

export function journalPath(controlPath: string): string {
  return `${controlPath}.workers`;
}

/** Only the user of the service may read and write it. */
const PRIVATE_MODE = 0o600;

/** Attempts to open the file. A dispatcher that exits removes it, and then the next attempt creates a new one. */
const OPEN_TRIES = 100;

interface Opened {
  /** Another open file description than the locked one. */
  readonly file: Descriptor;
  readonly hold: Hold | undefined;
  /** The number of the last record. */
  number: number;
}

/** `kept`: nothing was to be done, or it cannot be. `restored`: the file was missing. `displaced`: another dispatcher has the path. */
export type Check = 'kept' | 'restored' | 'displaced';

export class Journal {
  readonly #path: string;
  readonly #service: ServiceName;
  readonly #warned: (error: unknown) => void;
  #opened: Opened | undefined;
  #last: readonly Survivor[] = [];
  /** Whether `#last` is in the file. */
  #isWritten = true;
  #lastWarning: string | undefined;

  /**
   * @param control the path of the control socket
   * @param warned called when there can be no journal, or no lock. The service goes on without it
   */
  constructor(control: string, service: ServiceName, warned: (error: unknown) => void) {
    this.#path = journalPath(control);
    this.#service = service;
    this.#warned = warned;
  }

  /**
   * Takes the journal of a killed dispatcher, or creates one. It is locked even if it cannot be written.
   * @returns the workers in it that are alive
   * @throws {PassfdError} `ERR_ADDRESS_IN_USE` when the dispatcher is alive, or the workers belong to another service
   */
  claim(): Survivor[] {
    const before = this.#openIfPossible();
    if (!before) return [];
    try {
      const survivors = survivorsIn(before);
      this.#requireSameService(before, survivors);
      this.#tryToWrite(survivors);
      return survivors;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /**
   * Opens the journal of the generation before, which still has it open.
   * @returns the workers in it that are alive
   */
  join(): Survivor[] {
    try {
      return survivorsIn(this.#open('shared'));
    } catch (error) {
      this.#warn(error);
      return [];
    }
  }

  /** Reads the number of the last record again: the generation before may have written after `join`. */
  catchUp(): void {
    if (this.#opened) this.#opened.number = readRecord(this.#opened.file).number;
  }

  /** @throws a system error when it cannot be written. Then the record before is still there */
  write(survivors: readonly Survivor[]): void {
    this.#last = survivors;
    const opened = this.#opened;
    if (!opened) return;
    this.#isWritten = false;
    const { pid } = process;
    writeRecord(opened.file, opened.number + 1, {
      dispatcher: { pid, identity: processIdentity(pid) },
      pidSpace: pidSpace(),
      service: { words: [...this.#service.words], directory: this.#service.directory },
      workers: [...survivors],
    });
    opened.number++;
    this.#isWritten = true;
    traceStep('journal-written');
  }

  /**
   * Checks that the file is still at its path. Restores it if something removed it, or if it could not be opened at the start.
   * @throws when it cannot be restored. Then the file before is still locked
   */
  check(): Check {
    const before = this.#opened;
    if (!before) return this.#begin();
    if (isAt(this.#path, before.file)) {
      if (!this.#isWritten) this.#tryToWrite(this.#last);
      return 'kept';
    }
    try {
      // Alone: if another dispatcher is alive, it has the file that is there now.
      this.#open('alone');
    } catch (error) {
      if (error instanceof PassfdError && error.code === 'ERR_ADDRESS_IN_USE') return 'displaced';
      throw error;
    }
    end(before);
    this.write(this.#last);
    return 'restored';
  }

  /** Closes it. The file stays for the next dispatcher. */
  close(): void {
    if (this.#opened) end(this.#opened);
    this.#opened = undefined;
  }

  /** Removes the file: no worker is left. */
  remove(): void {
    const opened = this.#opened;
    if (opened && isAt(this.#path, opened.file)) rmSync(this.#path, { force: true });
    this.close();
  }

  /** Tries again what `claim` could not do. */
  #begin(): Check {
    try {
      const found = this.#openIfPossible();
      if (!found) return 'kept';
      this.#requireSameService(found, survivorsIn(found));
    } catch (error) {
      this.close();
      if (error instanceof PassfdError && error.code === 'ERR_ADDRESS_IN_USE') return 'displaced';
      throw error;
    }
    this.#tryToWrite(this.#last);
    return 'restored';
  }

  /** @returns undefined when the file cannot be opened @throws as `#open` */
  #openIfPossible(): Partial<JournalContents> | undefined {
    try {
      return this.#open('alone');
    } catch (error) {
      if (!(error instanceof PassfdError && error.code === 'ERR_SYSTEM')) throw error;
      this.#warn(error);
      return undefined;
    }
  }

  /**
   * @returns the last record
   * @throws {PassfdError} `ERR_ADDRESS_IN_USE` when another dispatcher has it, `ERR_SYSTEM` when it cannot be opened; a system
   * error when it cannot be read
   */
  #open(kind: 'alone' | 'shared'): Partial<JournalContents> {
    for (let tries = 0; tries < OPEN_TRIES; tries++) {
      const locked = openPrivate(this.#path);
      let hold: Hold | undefined;
      let file: Descriptor | undefined;
      try {
        const { number, contents: found } = readRecord(locked);
        const hasLocks = this.#lock(locked, kind, found);
        traceStep('journal-locked');
        // A dispatcher that exited has removed it meanwhile.
        if (!isAt(this.#path, locked)) continue;
        file = openPrivate(this.#path);
        if (file.inode !== locked.inode) continue;
        // Read again: it may have been written before the lock was taken.
        const { number: last, contents: present } = hasLocks
          ? readRecord(locked)
          : { number, contents: found };
        if (hasLocks) hold = new Hold(locked);
        this.#opened = { file, hold, number: last };
        file = undefined;
        return present;
      } finally {
        file?.close();
        if (!locked.closed) locked.close();
      }
    }
    throw inUse(`${this.#path} was removed and created again ${OPEN_TRIES} times`);
  }

  /**
   * Takes a shared lock: no other dispatcher can then have an exclusive one.
   * @returns whether the file system has locks. Without them, the pid in the journal decides
   * @throws {PassfdError} `ERR_ADDRESS_IN_USE`
   */
  #lock(descriptor: Descriptor, kind: 'alone' | 'shared', found: Partial<JournalContents>): boolean {
    try {
      if (lockFile(descriptor, kind) && (kind === 'shared' || lockFile(descriptor, 'shared'))) return true;
    } catch (cause) {
      if (!(cause instanceof PassfdError)) throw cause;
      const { dispatcher } = found;
      if (
        kind === 'alone' &&
        dispatcher &&
        isHere(found) &&
        isSameProcess(dispatcher.pid, dispatcher.identity)
      ) {
        throw this.#living(found);
      }
      this.#warn(
        new PassfdError(
          'ERR_SYSTEM',
          `${this.#path} cannot be locked, so a second dispatcher on another machine or in another container would not be noticed`,
          { cause },
        ),
      );
      return false;
    }
    throw this.#living(found);
  }

  #living({ dispatcher, service, ...rest }: Partial<JournalContents>): PassfdError {
    const who = dispatcher
      ? `process ${dispatcher.pid}${isHere(rest) ? '' : ' of another container or machine'}`
      : 'a process';
    const what = service ? ` of ${describeService(service)}` : '';
    return inUse(
      `the dispatcher${what} is alive, ${who}, and has ${this.#path}. ` +
        'Stop it with passfd stop, or give this one another path with --control PATH',
    );
  }

  #tryToWrite(survivors: readonly Survivor[]): void {
    try {
      this.write(survivors);
    } catch (error) {
      this.#warn(error);
    }
  }

  /** Warns once for each reason: the checks repeat it. */
  #warn(error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    if (reason === this.#lastWarning) return;
    this.#lastWarning = reason;
    this.#warned(error);
  }

  /** @throws {PassfdError} `ERR_ADDRESS_IN_USE` */
  #requireSameService({ service }: Partial<JournalContents>, survivors: readonly Survivor[]): void {
    if (!service || isSameService(service, this.#service)) return;
    const pids = survivors.filter(({ isLeaving }) => !isLeaving).map(({ pid }) => pid);
    if (pids.length === 0) return;
    throw inUse(
      `workers of another service wait for their dispatcher, which was killed: ${describeService(service)}, ` +
        `processes ${pids.join(', ')}. Start that service to take them back, or end them with: kill ${pids.join(' ')}`,
    );
  }
}

/** @throws {PassfdError} `ERR_SYSTEM`, also for a file of another user and for a symbolic link */
function openPrivate(path: string): Descriptor {
  const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
  let descriptor: Descriptor;
  try {
    descriptor = new Descriptor(openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, PRIVATE_MODE));
  } catch (cause) {
    throw new PassfdError('ERR_SYSTEM', `${path} cannot be opened: ${(cause as Error).message}`, { cause });
  }
  const status = fstatSync(descriptor.fd);
  if (status.isFile() && status.uid === process.geteuid?.()) return descriptor;
  descriptor.close();
  throw new PassfdError('ERR_SYSTEM', `${path} is not a file of this user; remove it`);
}

function end({ file, hold }: Opened): void {
  hold?.[Symbol.dispose]();
  file.close();
}

function isAt(path: string, descriptor: Descriptor): boolean {
  const found = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return found !== undefined && `${found.dev}:${found.ino}` === descriptor.inode;
}

function inUse(reason: string): PassfdError {
  return new PassfdError('ERR_ADDRESS_IN_USE', `Cannot start here: ${reason}`);
}
