// Files that are known by their text, so that a test sees which one a descriptor is.
import { AsyncLocalStorage } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import { openSync, readSync, unlinkSync, writeSync } from 'node:fs';
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

/** The directories that a test is done with, while its programs may still write there. */
const unremoved = new AsyncLocalStorage<string[]>();

/** A directory with a short name, since a socket's path has at most 107 bytes. */
export async function temporaryDirectory(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'pfd-'));
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      const paths = unremoved.getStore();
      if (paths) paths.push(path);
      else await remove(path);
    },
  };
}

/** Runs the body of a test, then `after`, and removes the body's temporary directories only after that. */
export async function removingDirectoriesAfter(
  body: () => Promise<void>,
  after: () => Promise<void>,
): Promise<void> {
  const paths: string[] = [];
  try {
    await unremoved.run(paths, body);
  } finally {
    await after();
    await Promise.all(paths.map(remove));
  }
}

/** A worker whose service was killed may still write: then the directory is not empty at the first try. */
function remove(path: string): Promise<void> {
  return rm(path, { recursive: true, maxRetries: 10, retryDelay: 20 });
}
