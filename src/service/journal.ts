// Journal: the file beside the control socket that says whose service this is and which workers it has, for the next
// dispatcher should this one die; and the lock on it, which proves whether its dispatcher lives.
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

/** A worker process. */
export interface Survivor {
  readonly id: number;
  readonly pid: number;
  /** See `processIdentity`. */
  readonly identity?: string | undefined;
  /** Whether the supervisor has started it, in the slot with this number. */
  readonly isChild: boolean;
  /** Whether it has joined the dispatcher: then it comes back to the next one. */
  readonly hasJoined: boolean;
  /** Whether it takes nothing new, and ends when it has finished what it has open: it does not come back. */
  readonly isLeaving: boolean;
}

/** What a service is known by. Its options, its environment and its Node may change, and it is the same. */
export interface ServiceName {
  /** The command of passfd, the app or program, and its arguments. */
  readonly words: readonly string[];
  readonly directory: string;
}

/** Short, and the same for the same service alone: what its workers know it by. */
export function fingerprint({ words, directory }: ServiceName): string {
  return createHash('sha256')
    .update(JSON.stringify([words, directory]))
    .digest('hex');
}

export function journalPath(controlPath: string): string {
  return `${controlPath}.workers`;
}

/** Only its own user may read or write it. */
const PRIVATE_MODE = 0o600;

/**
 * The file has two places for a record, which are written in turn, so that one of them is whole whenever this process is
 * killed. It is never replaced: a lock on a file that another one has replaced would prove nothing.
 */
const PLACE_BYTES = 1024 * 1024;

/** A record is a line with its number, its length and its checksum, and then JSON. */
const HEADER = /^(\d{1,15}) (\d{1,7}) (\d{1,10})\n/;
const MAX_HEADER_BYTES = 40;

/** Files that end while this one opens them: then the next one is opened. */
const OPEN_TRIES = 100;

const positive = v.pipe(v.number(), v.safeInteger(), v.minValue(1));

const workers = v.array(
  v.object({
    id: positive,
    pid: positive,
    identity: v.optional(v.string()),
    isChild: v.boolean(),
    /** Earlier releases noted no others. */
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

/** What earlier releases wrote, which replaced the file each time. */
const earlierContents = v.object({ workers });

type Contents = v.InferOutput<typeof contents>;

interface Opened {
  /** Of another open file than the one with the lock. */
  readonly file: Descriptor;
  readonly hold: Hold | undefined;
  /** Number of the last record. */
  number: number;
}

/** What a check found: nothing to do, or that can be done; the file was missing and is there now; or it is another dispatcher's. */
export type Check = 'kept' | 'restored' | 'displaced';

export class Journal {
  readonly #path: string;
  readonly #service: ServiceName;
  readonly #warned: (error: unknown) => void;
  #opened: Opened | undefined;
  #last: readonly Survivor[] = [];
  /** Whether the last list is in the file. */
  #isWritten = true;
  #lastWarning: string | undefined;

  /**
   * @param control the path of the control socket
   * @param warned told when there is no journal, or no lock: the service goes on without
   */
  constructor(control: string, service: ServiceName, warned: (error: unknown) => void) {
    this.#path = journalPath(control);
    this.#service = service;
    this.#warned = warned;
  }

  /**
   * Takes the journal of a dispatcher that is proved dead, or begins one. One that cannot be written is locked all the same.
   * @returns its workers that live
   * @throws {PassfdError} `ERR_ADDRESS_IN_USE` when the dispatcher lives, or when its workers are those of another service
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
   * Goes on with the journal of the generation before, which still has it.
   * @returns the workers that are noted there, and live
   */
  join(): Survivor[] {
    try {
      return survivorsIn(this.#open('shared'));
    } catch (error) {
      this.#warn(error);
      return [];
    }
  }

  /** The generation before may have written after `join`. */
  catchUp(): void {
    if (this.#opened) this.#opened.number = read(this.#opened.file).number;
  }

  /** @throws a system error where it cannot be written; what was written before is still there then */
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
   * Looks whether the file is still where it was; a cleaner may have removed it. Then it is made anew, and so is one that
   * could not be opened at the start.
   * @throws when that fails; then the one before is still locked
   */
  check(): Check {
    const before = this.#opened;
    if (!before) return this.#begin();
    if (isAt(this.#path, before.file)) {
      if (!this.#isWritten) this.#tryToWrite(this.#last);
      return 'kept';
    }
    try {
      // Alone: a dispatcher that lives has the file that is there now.
      this.#open('alone');
    } catch (error) {
      if (error instanceof PassfdError && error.code === 'ERR_ADDRESS_IN_USE') return 'displaced';
      throw error;
    }
    end(before);
    this.write(this.#last);
    return 'restored';
  }

  /** Lets go of it. The file stays, for the next dispatcher. */
  close(): void {
    if (this.#opened) end(this.#opened);
    this.#opened = undefined;
  }

  /** At an orderly end: no worker is left. */
  remove(): void {
    const opened = this.#opened;
    if (opened && isAt(this.#path, opened.file)) rmSync(this.#path, { force: true });
    this.close();
  }

  /** What `claim` could not do. */
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

  /** @returns undefined when there can be none @throws as `#open` */
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
   * @returns what it says
   * @throws {PassfdError} `ERR_ADDRESS_IN_USE` when another dispatcher has it, `ERR_SYSTEM` when it cannot be opened; or a
   * system error when it cannot be read
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
        // Who ended in good order has removed it meanwhile.
        if (!isAt(this.#path, locked)) continue;
        file = openPrivate(this.#path);
        if (file.inode !== locked.inode) continue;
        // What was noted between the first look and the lock.
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
    throw inUse(`${this.#path} is removed and made again and again`);
  }

  /**
   * Locks it so that no other dispatcher can have it alone.
   * @returns whether there are locks here; without, the process of the dispatcher decides
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
          `${this.#path} cannot be locked, so a second dispatcher on another machine, or in another container, is not noticed`,
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
      `the dispatcher${what} lives, ${who}, and has ${this.#path}. ` +
        'End it by passfd stop, or give this one a path of its own by --control PATH',
    );
  }

  #tryToWrite(survivors: readonly Survivor[]): void {
    try {
      this.write(survivors);
    } catch (error) {
      this.#warn(error);
    }
  }

  /** Each reason once: it is tried again and again. */
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
      `workers of another service live and wait for their dispatcher, which was killed: ${describe(service)}, ` +
        `processes ${pids.join(', ')}. Start that one to take them back; or end them, for example by kill ${pids.join(' ')}`,
    );
  }
}

/** @throws {PassfdError} `ERR_SYSTEM`, also for a file of somebody else's, or a link */
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
  throw new PassfdError('ERR_SYSTEM', `${path} is no file of this user; remove it`);
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

/** The newer of the two records, or nothing. */
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

/** None where their numbers would mean other processes here. */
function survivorsIn(found: Partial<Contents>): Survivor[] {
  if (!isHere(found)) return [];
  return (found.workers ?? []).filter(({ pid, identity }) => isSameProcess(pid, identity));
}

function isHere(found: Partial<Contents>): boolean {
  return found.pidSpace === pidSpace();
}

/** Where the number of a process means the same process: a start of the machine, and a namespace of it (pid_namespaces(7)). */
function pidSpace(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return ''; // macOS has one for all
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
