// A worker that joins a dispatcher at the control socket BENCH_CONTROL: of passfd serve, and of the limit.
import process from 'node:process';

import { join } from 'passfd/worker';

import { createApp, sayReady } from './app.js';

const { BENCH_WORKER, BENCH_CONTROL = '' } = process.env;
const number = Number(BENCH_WORKER);
const worker = await join({ control: BENCH_CONTROL, waitForDispatcher: true });
const server = createApp(number);
await worker.serve(server);
sayReady(number, server);
