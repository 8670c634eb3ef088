// An ordinary server that listens by itself: for passfd run, cluster, SO_REUSEPORT, the proxies, and alone.
import process from 'node:process';

import { createApp, sayReady } from './app.js';

const { BENCH_WORKER, BENCH_LISTEN_FD, PASSFD_WORKER_ID } = process.env;
const worker = Number(BENCH_WORKER ?? PASSFD_WORKER_ID ?? 0);
const server = createApp(worker);
server.listen(
  BENCH_LISTEN_FD === undefined ? { host: '127.0.0.1', port: 0 } : { fd: Number(BENCH_LISTEN_FD) },
  () => {
    sayReady(worker, server);
  },
);
