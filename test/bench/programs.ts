// The programs of the benchmarks, for tests: each in a process of its own, with what it prints.
import assert from 'node:assert/strict';

import { buildPrograms } from '../../bench/native.js';
import type { Program, Start } from '../support/program.js';

/** Why these tests cannot run here, or false when they can. */
export const withoutPrograms: string | false =
  process.platform === 'linux' ? false : 'the programs of the benchmarks are for Linux';

export const programs =
  withoutPrograms === false ? await buildPrograms() : { load: '', limit: '', answer: '' };

/** What the load generator tells when it ends. */
export interface Result {
  readonly work: string;
  readonly seconds: number;
  readonly completed: number;
  readonly failed: number;
  readonly reasons: readonly string[];
  readonly perSecond: number;
  readonly bytes: number;
  readonly latencyUs: Latency | null;
  readonly byWorker: Readonly<Record<string, number>>;
  readonly latencyByWorkerUs: Readonly<Record<string, Latency>>;
  readonly cpuUs: { readonly user: number; readonly system: number };
}

export interface Latency {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** The port of a program that says that it is ready. */
export async function portOf(program: Program): Promise<number> {
  const [, port] = await program.line(/^\{"type":"ready","port":(\d+)\}$/);
  return Number(port);
}

/** Starts the load generator. @param to a port of 127.0.0.1, or another address */
export function startLoad(start: Start, to: number | string, work: string, ...options: string[]): Program {
  const address = typeof to === 'number' ? `127.0.0.1:${to}` : to;
  return start(programs.load, ['--to', address, '--work', work, ...options]);
}

/** What a load generator tells, which has to end as it does when so many answers were wrong. */
export async function resultOf(load: Program): Promise<Result> {
  const [line] = await load.line(/^\{"type":"result",.*\}$/);
  const result = JSON.parse(line) as Result;
  assert.equal(await load.stderr, '');
  assert.equal(await load.exit, result.failed === 0 ? 0 : 1);
  return result;
}
