// Node's own cluster: `cluster.js rr|none WORKERS`, with the scheduling policy of that name.
import cluster from 'node:cluster';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const [, , policy, workers] = process.argv;
cluster.schedulingPolicy = policy === 'rr' ? cluster.SCHED_RR : cluster.SCHED_NONE;
cluster.setupPrimary({ exec: fileURLToPath(new URL('listen.js', import.meta.url)), args: [] });
for (let worker = 1; worker <= Number(workers); worker++) cluster.fork({ BENCH_WORKER: worker });
cluster.on('exit', ({ id }, code, signal) => {
  throw new Error(`Worker ${id} ended with ${signal || code}`);
});
