// Servers that the load generator asks in tests, and what its result has to be.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';

import type { LoadResult } from '../../bench/dispatch/load.js';
import type { Start } from '../support/program.js';
import { portOf, programs } from './programs.js';

/** What these servers answer. */
export const LABEL = 'w000003';

/** A server of this process that closes every connection at its end. */
export interface Stage extends AsyncDisposable {
  readonly server: Server;
  readonly port: number;
  readonly sockets: Set<Socket>;
  /** Of every connection that did not end well. */
  readonly errors: Error[];
}

export async function serving(onConnection: (socket: Socket) => void): Promise<Stage> {
  const sockets = new Set<Socket>();
  const errors: Error[] = [];
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', (error) => errors.push(error));
    onConnection(socket);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    server,
    port: (server.address() as AddressInfo).port,
    sockets,
    errors,
    [Symbol.asyncDispose]: async () => {
      const closed = once(server, 'close');
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** Does something to every connection that has asked. */
export async function answering(answer: (socket: Socket) => void): Promise<Stage> {
  return serving((socket) =>
    socket.once('data', () => {
      answer(socket);
    }),
  );
}

/** The fastest server there is. @returns its port */
export async function startAnswer(
  start: Start,
  app: 'http' | 'raw',
  env: NodeJS.ProcessEnv = {},
): Promise<number> {
  return portOf(start(programs.answer, ['--app', app, '--worker', '3'], { env }));
}

/** So many right answers, all of one worker. */
export function assertRight(result: LoadResult, count: number): void {
  const { completed, failed, reasons, byWorker, latencyByWorkerUs } = result;
  assert.deepEqual(
    { completed, failed, reasons, byWorker },
    { completed: count, failed: 0, reasons: [], byWorker: { [LABEL]: count } },
  );
  const { p50 = 0, p90 = 0, p99 = 0, p999 = 0, max = 0 } = result.latencyUs ?? {};
  assert.ok(0 < p50 && p50 <= p90 && p90 <= p99 && p99 <= p999 && p999 <= max);
  assert.deepEqual(latencyByWorkerUs, { [LABEL]: result.latencyUs });
  assert.ok(Math.abs(result.perSecond * result.seconds - count) < 0.1 + count / 100);
}

/** All of them failed, for one reason. */
export function assertFailed(result: LoadResult, count: number, reason: string): void {
  const { completed, failed, reasons, byWorker } = result;
  assert.deepEqual(
    { completed, failed, reasons, byWorker },
    { completed: 0, failed: count, reasons: [reason], byWorker: {} },
  );
}
