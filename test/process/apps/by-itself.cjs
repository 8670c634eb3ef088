// Listens in a thread, in a child of its own cluster with SCHED_NONE, and in this process. It knows nothing of passfd.
const cluster = require('node:cluster');
const { createServer } = require('node:http');
const { isMainThread, Worker } = require('node:worker_threads');

const name = !isMainThread ? 'thread' : cluster.isWorker ? 'child' : 'process';
const server = createServer((request, response) => {
  response.end(name);
});
if (name === 'process') {
  console.log('parent', String(module.parent), 'main', require.main === module);
  cluster.schedulingPolicy = cluster.SCHED_NONE;
  cluster.fork();
  new Worker(__filename);
}
server.listen(0, '127.0.0.1');
console.log('address', name, String(server.address()));
server.on('listening', () => {
  console.log('listening', name, server.address().port);
});
