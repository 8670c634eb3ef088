// Files that are known by their text, so that a test sees which one a descriptor is.
import { openSync, readSync, unlinkSync, writeSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Descriptor } from '../../src/fd/index.js';

/** An open file with this text and without a name. */
export function openFile(text: string): Descriptor {
  const path = join(tmpdir(), `passfd-${randomUUID()}`);
  const fd = openSync(path, 'wx+');
  unlinkSync(path);
  writeSync(fd, text);
  return new Descriptor(fd);
}

/** The text of a file from its start, whatever its offset is. */
export function textOf(descriptor: Descriptor): string {
  const buffer = Buffer.alloc(1024);
  return buffer.toString('utf8', 0, readSync(descriptor.fd, buffer, 0, buffer.length, 0));
}

/** Closes them, and tells their texts. */
export function takeTexts(descriptors: readonly Descriptor[]): string[] {
  return descriptors.map((descriptor) => {
    using file = descriptor;
    return textOf(file);
  });
}

/** A number that no descriptor has, since no limit goes that far. */
export const NOBODYS_NUMBER = 2_147_483_647;

/** A directory with a short name, since a socket's path has at most 107 bytes. */
export async function temporaryDirectory(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'pfd-'));
  return {
    path,
    // A program of the test that is about to end may still write there: then it is not empty at the first try.
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, maxRetries: 10, retryDelay: 20 }),
  };
}
