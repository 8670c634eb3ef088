// The programs of the benchmarks, for tests: each in a process of its own, with what it prints.
import assert from 'node:assert/strict';

import type { LoadResult } from '../../bench/dispatch/load.js';
import { buildPrograms } from '../../bench/native.js';
import type { Program, Start } from '../support/program.js';

/** Why these tests cannot run here, or false when they can. */
export const withoutPrograms: string | false =
  process.platform === 'linux' ? false : 'the programs of the benchmarks are for Linux';

export const programs =
  withoutPrograms === false ? await buildPrograms() : { load: '', limit: '', answer: '' };

/** The port of a program that says that it is ready. */
export async function portOf(program: Program): Promise<number> {
  const [, port] = await program.line(/^\{"type":"ready","port":(\d+)\}$/);
  return Number(port);
}

/** Starts the load generator. @param to a port of 127.0.0.1, or another address */
export function startLoad(start: Start, to: number | string, work: string, ...options: string[]): Program {
  const address = typeof to === 'number' ? `127.0.0.1:${to}` : to;
  // A busy machine is slow. An answer that never comes still ends the test.
  return start(programs.load, ['--to', address, '--work', work, '--timeout-ms', '120000', ...options]);
}

/** What a load generator tells, which has to end as it does when so many answers were wrong. */
export async function resultOf(load: Program): Promise<LoadResult> {
  const [line] = await load.line(/^\{"type":"result",.*\}$/);
  const result = JSON.parse(line) as LoadResult;
  assert.equal(await load.stderr, '');
  assert.equal(await load.exit, result.failed === 0 ? 0 : 1);
  return result;
}
