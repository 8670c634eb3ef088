// The app of every contestant in Node: what it answers is in `native/answers.h`, and the load generator checks it.
import http from 'node:http';
import net from 'node:net';
import process from 'node:process';

import type { Settings } from '../settings.js';

const REQUEST_BYTES = 7;

/** The byte at position i of a bulk answer is i % 251. */
const BULK_PERIOD = 251;

/** In whole periods, so that the same bytes can follow each other. About what a stream of a file would bring at a time. */
const bulkChunk = Buffer.from(Array.from({ length: BULK_PERIOD * 1024 }, (_, index) => index % BULK_PERIOD));

/** How long a slow worker blocks its event loop at each request. */
const SLOWNESS_MS = 20;

/** How long the event loop of a sleepy worker sleeps, and how often it begins to. */
const SLEEP_MS = 200;
const SLEEPS_EVERY_MS = 1_000;

/** The server of this worker, which does not listen yet. */
export function createApp(worker: number): net.Server {
  const settings = JSON.parse(process.env['BENCH_SETTINGS'] ?? '{}') as Settings;
  if (worker === settings.sleepy) process.once('SIGUSR2', sleepAgainAndAgain);
  const label = `w${String(worker).padStart(6, '0')}`;
  const think = worker === settings.slow ? block : () => undefined;
  return settings.app === 'http' ? httpApp(label, think) : rawApp(label, think, settings.bulkBytes);
}

/** Tells the benchmark that this worker serves. */
export function sayReady(worker: number, server: net.Server): void {
  const address = server.address();
  const port = typeof address === 'object' ? address?.port : undefined;
  process.stdout.write(`${JSON.stringify({ type: 'ready', worker, pid: process.pid, port })}\n`);
}

function httpApp(label: string, think: () => void): net.Server {
  return http.createServer((_request, response) => {
    think();
    response.writeHead(200, { 'Content-Length': label.length });
    response.end(label);
  });
}

function rawApp(label: string, think: () => void, bulkBytes: number): net.Server {
  return net.createServer((socket) => {
    let request = '';
    // Its client may have been ended in the middle.
    socket.on('error', () => socket.destroy());
    socket.on('data', (bytes) => {
      request += bytes.toString('latin1');
      if (request.length < REQUEST_BYTES) return;
      think();
      if (request === 'request') socket.write(label);
      else if (request === 'bulkGET') sendBulk(socket, bulkBytes);
      else socket.destroy();
    });
  });
}

function sendBulk(socket: net.Socket, left: number): void {
  const send = (): void => {
    let goesOn = true;
    while (goesOn && left > 0) {
      const part = bulkChunk.subarray(0, Math.min(left, bulkChunk.length));
      left -= part.length;
      goesOn = socket.write(part);
    }
    if (left === 0) socket.off('drain', send).end();
  };
  socket.on('drain', send);
  send();
}

function sleepAgainAndAgain(): void {
  const cell = new Int32Array(new SharedArrayBuffer(4));
  const sleep = (): void => {
    Atomics.wait(cell, 0, 0, SLEEP_MS);
  };
  setInterval(sleep, SLEEPS_EVERY_MS);
  sleep();
}

function block(): void {
  const end = performance.now() + SLOWNESS_MS;
  while (performance.now() < end);
}
