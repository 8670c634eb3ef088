// Descriptors: what this process has open, and a wrapper for tests that leave none behind.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readlinkSync, realpathSync } from 'node:fs';
import { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';

/** libuv closes a handle within a turn or two of its loop; what is open after that many stays open. */
const MAX_TURNS = 1000;

/**
 * Files that other threads open for a moment: glibc, for one, asks how to shrink a heap. And what libuv keeps for its loop
 * once anything was ever watched (uv__inotify_fork).
 */
const OF_THE_RUNTIME = /^(\/(proc|sys)\/|anon_inode:inotify$)/;

/** Since Node 22.21 and 24.10 a thread of its own reads the certificates that NODE_EXTRA_CA_CERTS names. */
const { NODE_EXTRA_CA_CERTS: named = '' } = process.env;
const CERTIFICATES = existsSync(named) ? realpathSync(named) : undefined;

// libuv keeps a descriptor of /dev/null in reserve from the first stream on (uv__stream_init). Where the standard output is
// a file, and no stream, the first one would be a test's.
new Socket().connect({ host: 'nowhere', port: 1, lookup: () => undefined }).destroy();

/** Every open descriptor of this process as its number and what it is, `7 socket:[4711]`. */
export function openDescriptors(): string[] {
  return readdirSync('/proc/self/fd')
    .map(Number)
    .sort((a, b) => a - b)
    .flatMap(describe);
}

/** Runs a test, and holds that afterwards the same descriptors are open as before. */
export function keepsDescriptors(body: () => void | Promise<void>): () => Promise<void> {
  return async () => {
    const before = openDescriptors();
    await body();
    let after = openDescriptors();
    for (let turn = 0; turn < MAX_TURNS && after.join() !== before.join(); turn++) {
      await nextTurn();
      after = openDescriptors();
    }
    assert.deepEqual(after, before, 'the test leaves other descriptors open than it found');
  };
}

function describe(fd: number): string[] {
  try {
    const target = readlinkSync(`/proc/self/fd/${fd}`);
    return OF_THE_RUNTIME.test(target) || target === CERTIFICATES ? [] : [`${fd} ${target}`];
  } catch {
    return []; // the one that listed the directory, which is closed by now
  }
}
