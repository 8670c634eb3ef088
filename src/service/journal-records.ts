// Records of the journal: what they say, their bytes in the file, and where their pids mean the same processes.
import { fstatSync, readFileSync, readlinkSync, readSync, writeSync } from 'node:fs';
import { crc32 } from 'node:zlib';

import * as v from 'valibot';

import { PassfdError, type Descriptor } from '../fd/index.js';
import { isSameProcess } from '../fd/internal.js';
import { positive } from '../handoff/index.js';

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

/**
 * The file has two places for a record, which are written in turn. So one record is complete whenever this process is killed.
 * The file is never replaced: a lock on a file that was replaced would prove nothing.
 */
const PLACE_BYTES = 1024 * 1024;

/** A record is a line with its number, length and checksum, and then JSON. */
const HEADER = /^(\d{1,15}) (\d{1,7}) (\d{1,10})\n/;
const MAX_HEADER_BYTES = 40;

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

const schema = v.object({
  dispatcher: v.object({ pid: positive, identity: v.optional(v.string()) }),
  /** See `pidSpace`. */
  pidSpace: v.string(),
  service: v.object({ words: v.array(v.string()), directory: v.string() }),
  workers,
});

/** The format of earlier releases, which replaced the file each time. */
const earlierContents = v.object({ workers });

export type JournalContents = v.InferOutput<typeof schema>;

/** @throws a system error when it cannot be written. Then the record before is still there */
export function writeRecord({ fd }: Descriptor, number: number, contents: JournalContents): void {
  const record = encode(number, contents);
  const start = (number % 2) * PLACE_BYTES;
  for (let written = 0; written < record.length;) {
    written += writeSync(fd, record, written, record.length - written, start + written);
  }
}

function encode(number: number, record: JournalContents): Buffer {
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
export function readRecord({ fd }: Descriptor): {
  readonly number: number;
  readonly contents: Partial<JournalContents>;
} {
  const records = [0, 1].flatMap((place) => readPlace(fd, place * PLACE_BYTES) ?? []);
  const [newest] = records.sort((one, other) => other.number - one.number);
  if (newest) return newest;
  const isShort = fstatSync(fd).size <= PLACE_BYTES;
  const earlier = v.safeParse(earlierContents, isShort ? parse(bytesAt(fd, 0)) : undefined);
  return { number: 0, contents: earlier.success ? { ...earlier.output, pidSpace: pidSpace() } : {} };
}

function readPlace(fd: number, start: number): { number: number; contents: JournalContents } | undefined {
  const bytes = bytesAt(fd, start);
  const match = HEADER.exec(bytes.toString('latin1', 0, MAX_HEADER_BYTES));
  if (!match) return undefined;
  const [header, number, length, checksum] = match;
  const json = bytes.subarray(header.length, header.length + Number(length));
  if (json.length !== Number(length) || crc32(json) !== Number(checksum)) return undefined;
  const result = v.safeParse(schema, parse(json));
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

/** The workers in a record that are alive. None where its pids would mean other processes here. */
export function survivorsIn(found: Partial<JournalContents>): Survivor[] {
  if (!isHere(found)) return [];
  return (found.workers ?? []).filter(({ pid, identity }) => isSameProcess(pid, identity));
}

/** Whether the pids of a record mean the same processes here. */
export function isHere(found: Partial<JournalContents>): boolean {
  return found.pidSpace === pidSpace();
}

/** Where a pid means the same process: one boot of one machine, and one pid namespace of it (pid_namespaces(7)). */
export function pidSpace(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return ''; // macOS has no pid namespaces
  }
}
