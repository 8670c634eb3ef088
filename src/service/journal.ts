// Journal: the file beside the control socket that names the service and its workers, for the next dispatcher after a crash.
// A lock on it proves that its dispatcher is alive.
import { createHash } from 'node:crypto';
import {
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { crc32 } from 'node:zlib';

import * as v from 'valibot';

import { Descriptor, PassfdError } from '../fd/index.js';
import { Hold, isSameProcess, lockFile, processIdentity } from '../fd/internal.js';
import { traceStep } from '../handoff/index.js';

/** A worker process that can outlive its dispatcher. */
export interface Survivor {
  readonly id: number;
  readonly pid: number;
  /** From `processIdentity`. */
  readonly identity?: string | undefined;
  /** Whether the supervisor has started it, in the slot with number `id`. */
  readonly isChild: boolean;
  /** Whether it has joined the dispatcher. If so, it returns to the next one. */
  readonly hasJoined: boolean;
  /** Whether it is draining. If so, it does not return. */
  readonly isLeaving: boolean;
}

/** Identifies a service. Its options, its environment and its Node may change. */
export interface ServiceName {
  /** The command of passfd, the app or program, and its arguments. */
  readonly words: readonly string[];
  readonly directory: string;
}

/** A short form of a service's name, which its workers get and give back when they return. */
export function fingerprint({ words, directory }: ServiceName): string {
  return createHash('sha256')
    .update(JSON.stringify([words, directory]))
    .digest('hex');
}

export function journalPath(controlPath: string): string {
  return `${controlPath}.workers`;
}

/** Only the user of the service may read and write it. */
const PRIVATE_MODE = 0o600;

/**
 * The file has two places for a record, which are written in turn. So one record is complete whenever this process is killed.
 * The file is never replaced: a lock on a file that was replaced would prove nothing.
 */
const PLACE_BYTES = 1024 * 1024;

/** A record is a line with its number, length and checksum, and then JSON. */
const HEADER = /^(\d{1,15}) (\d{1,7}) (\d{1,10})\n/;
const MAX_HEADER_BYTES = 40;

/** Attempts to open the file. A dispatcher that exits removes it, and then the next attempt creates a new one. */
const OPEN_TRIES = 100;

const positive = v.pipe(v.number(), v.safeInteger(), v.minValue(1));

const workers = v.array(
  v.object({
    id: positive,
    pid: positive,
    identity: v.optional(v.string()),
    isChild: v.boolean(),
    /** Earlier releases wrote only workers that had joined. */
    hasJoined: v.optional(v.boolean(), true),
    isLeaving: v.boolean(),
  }),
);

const contents = v.object({
  dispatcher: v.object({ pid: positive, identity: v.optional(v.string()) }),
  /** See `pidSpace`. */
  pidSpace: v.string(),
  service: v.object({ words: v.array(v.string()), directory: v.string() }),
  workers,
});

/** The format of earlier releases, which replaced the file each time. */
const earlierContents = v.object({ workers });

type Contents = v.InferOutput<typeof contents>;

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
    if (this.#opened) this.#opened.number = read(this.#opened.file).number;
  }

  /** @throws a system error when it cannot be written. Then the record before is still there */
  write(survivors: readonly Survivor[]): void {
    this.#last = survivors;
    const opened = this.#opened;
    if (!opened) return;
    this.#isWritten = false;
    const { pid } = process;
    const record = encode(opened.number + 1, {
      dispatcher: { pid, identity: processIdentity(pid) },
      pidSpace: pidSpace(),
      service: { words: [...this.#service.words], directory: this.#service.directory },
      workers: [...survivors],
    });
    const start = ((opened.number + 1) % 2) * PLACE_BYTES;
    for (let written = 0; written < record.length;) {
      written += writeSync(opened.file.fd, record, written, record.length - written, start + written);
    }
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
  #openIfPossible(): Partial<Contents> | undefined {
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
  #open(kind: 'alone' | 'shared'): Partial<Contents> {
    for (let tries = 0; tries < OPEN_TRIES; tries++) {
      const locked = openPrivate(this.#path);
      let hold: Hold | undefined;
      let file: Descriptor | undefined;
      try {
        const { number, contents: found } = read(locked);
        const hasLocks = this.#lock(locked, kind, found);
        traceStep('journal-locked');
        // A dispatcher that exited has removed it meanwhile.
        if (!isAt(this.#path, locked)) continue;
        file = openPrivate(this.#path);
        if (file.inode !== locked.inode) continue;
        // Read again: it may have been written before the lock was taken.
        const { number: last, contents: present } = hasLocks ? read(locked) : { number, contents: found };
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
  #lock(descriptor: Descriptor, kind: 'alone' | 'shared', found: Partial<Contents>): boolean {
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

  #living({ dispatcher, service, ...rest }: Partial<Contents>): PassfdError {
    const who = dispatcher
      ? `process ${dispatcher.pid}${isHere(rest) ? '' : ' of another container or machine'}`
      : 'a process';
    const what = service ? ` of ${describe(service)}` : '';
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
  #requireSameService({ service }: Partial<Contents>, survivors: readonly Survivor[]): void {
    if (!service || isSame(service, this.#service)) return;
    const pids = survivors.filter(({ isLeaving }) => !isLeaving).map(({ pid }) => pid);
    if (pids.length === 0) return;
    throw inUse(
      `workers of another service wait for their dispatcher, which was killed: ${describe(service)}, ` +
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

function encode(number: number, record: Contents): Buffer {
  const json = Buffer.from(`${JSON.stringify(record)}\n`);
  const header = Buffer.from(`${number} ${json.length} ${crc32(json)}\n`);
  if (header.length + json.length > PLACE_BYTES) {
    throw new PassfdError(
      'ERR_SYSTEM',
      `The journal has room for ${PLACE_BYTES} bytes, not for the ${header.length + json.length} of this record`,
    );
  }
  return Buffer.concat([header, json]);
}

/** The newer one of the two records, if there is one. */
function read({ fd }: Descriptor): { readonly number: number; readonly contents: Partial<Contents> } {
  const records = [0, 1].flatMap((place) => readPlace(fd, place * PLACE_BYTES) ?? []);
  const [newest] = records.sort((one, other) => other.number - one.number);
  if (newest) return newest;
  const isShort = fstatSync(fd).size <= PLACE_BYTES;
  const earlier = v.safeParse(earlierContents, isShort ? parse(bytesAt(fd, 0)) : undefined);
  return { number: 0, contents: earlier.success ? { ...earlier.output, pidSpace: pidSpace() } : {} };
}

function readPlace(fd: number, start: number): { number: number; contents: Contents } | undefined {
  const bytes = bytesAt(fd, start);
  const match = HEADER.exec(bytes.toString('latin1', 0, MAX_HEADER_BYTES));
  if (!match) return undefined;
  const [header, number, length, checksum] = match;
  const json = bytes.subarray(header.length, header.length + Number(length));
  if (json.length !== Number(length) || crc32(json) !== Number(checksum)) return undefined;
  const result = v.safeParse(contents, parse(json));
  return result.success ? { number: Number(number), contents: result.output } : undefined;
}

function bytesAt(fd: number, start: number): Buffer {
  const { size } = fstatSync(fd);
  const bytes = Buffer.alloc(Math.max(0, Math.min(size - start, PLACE_BYTES)));
  return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, start));
}

function parse(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return undefined;
  }
}

/** None where the pids would mean other processes here. */
function survivorsIn(found: Partial<Contents>): Survivor[] {
  if (!isHere(found)) return [];
  return (found.workers ?? []).filter(({ pid, identity }) => isSameProcess(pid, identity));
}

function isHere(found: Partial<Contents>): boolean {
  return found.pidSpace === pidSpace();
}

/** Where a pid means the same process: one boot of one machine, and one pid namespace of it (pid_namespaces(7)). */
function pidSpace(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return ''; // macOS has no pid namespaces
  }
}

function isSame(one: ServiceName, other: ServiceName): boolean {
  return (
    one.directory === other.directory &&
    one.words.length === other.words.length &&
    one.words.every((word, index) => word === other.words[index])
  );
}

function describe({ words: [command = '', ...rest], directory }: ServiceName): string {
  return `passfd ${[command, ...rest].join(' ')} (in ${directory})`;
}

function inUse(reason: string): PassfdError {
  return new PassfdError('ERR_ADDRESS_IN_USE', `Cannot start here: ${reason}`);
}
