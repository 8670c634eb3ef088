// Shared by the tests of the addon: socket pairs, readiness, and fixtures that run as processes.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';

import { native, READABLE, RESULTS_LENGTH } from '../../src/fd/native.js';
import { STUCK_AFTER_MS } from '../support/deadline.js';

export const { errno } = constants;

/** Two ends of a Unix socket pair. The caller closes them. */
export function openPair(): [number, number] {
  const fds = new Int32Array(2);
  assert.equal(native.socketPair(fds), 0);
  const [one = -1, other = -1] = fds;
  return [one, other];
}

/** Lends a socket pair to a test, and closes it afterwards, even if the test fails. */
export async function withPair(body: (one: number, other: number) => void | Promise<void>): Promise<void> {
  const [one, other] = openPair();
  try {
    await body(one, other);
  } finally {
    native.close(one);
    native.close(other);
  }
}

/** Sends one byte with descriptors. */
export function sendByte(fd: number, ...descriptors: number[]): void {
  assert.equal(
    native.send(fd, Uint8Array.of(0x78), 0, 1, Int32Array.from(descriptors), descriptors.length),
    1,
  );
}

/** Receives one byte, and returns the descriptors that came with it. */
export function receiveByte(fd: number): number[] {
  const results = new Int32Array(RESULTS_LENGTH);
  assert.equal(native.receive(fd, new Uint8Array(1), 0, 1, results), 1);
  const [count = 0] = results;
  return [...results.subarray(2, 2 + count)];
}

/** Waits until something can be read or accepted. */
export async function untilReadable(fd: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const poll = new native.Poll(fd, () => {
      poll.close();
      resolve();
    });
    poll.start(READABLE);
  });
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a module of `fixtures/` as a process until it ends by itself. */
export async function runFixture(name: string, args: string[], nodeFlags: string[] = []): Promise<Ended> {
  const path = fileURLToPath(new URL(`./fixtures/${name}.js`, import.meta.url));
  const child = spawn(process.execPath, [...nodeFlags, path, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: STUCK_AFTER_MS,
    killSignal: 'SIGKILL',
  });
  const ended = new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      resolve([code, signal]);
    });
  });
  const [stdout, stderr, [code, signal]] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
  return { code, signal, stdout, stderr };
}
