// Answers each connection's number, and keeps a record of it first: `numbers.js RECORDS-DIRECTORY [comes-and-goes]`.
import { openSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';

/** Connections until the server of worker 1 is closed, and listens again, where it comes and goes. */
const STAY = 20;

const [, , directory, habit] = process.argv;
const comesAndGoes = habit === 'comes-and-goes' && process.env.PASSFD_WORKER_ID === '1';
const records = openSync(`${directory}/${process.pid}`, 'a');
let served = 0;
const server = createServer((socket) => {
  let line = '';
  socket.on('error', () => {});
  socket.on('data', (chunk) => {
    line += chunk;
    if (!line.endsWith('\n')) return;
    writeSync(records, line);
    socket.end(line);
    line = '';
  });
  if (comesAndGoes && ++served % STAY === 0) comeAgain();
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});

function comeAgain() {
  // What it had adopted when it was closed still comes.
  if (!server.listening) return;
  const { port } = server.address();
  server.close(() => server.listen(port, '127.0.0.1'));
}
