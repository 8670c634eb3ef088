// Reports what a child process and a thread of this app see, and whether they can listen by themselves.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';

const self = fileURLToPath(import.meta.url);

const variables = () =>
  Object.keys(process.env)
    .filter((name) => name.startsWith('PASSFD_'))
    .sort();

const serve = async (name) => {
  const server = createServer((socket) => socket.end(name)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const heard = await text(connect(server.address()));
  server.close();
  return {
    heard,
    variables: variables(),
    preload: process.execArgv.some((word) => word.includes('register')),
  };
};

if (!isMainThread) parentPort.postMessage(await serve('thread'));
else if (process.send) process.send(await serve('child'), () => process.disconnect());
else {
  console.log('app', JSON.stringify({ variables: variables() }));
  const child = fork(self);
  const [ofChild] = await once(child, 'message');
  console.log('child', JSON.stringify(ofChild));
  const thread = new Worker(self);
  const [ofThread] = await once(thread, 'message');
  console.log('thread', JSON.stringify(ofThread));
  const server = createServer().listen(0, '127.0.0.1', () => console.log('listening', server.address().port));
}
