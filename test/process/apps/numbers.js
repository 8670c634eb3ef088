// Records each connection's number, and then answers it: `numbers.js RECORDS-DIRECTORY [comes-and-goes]`.
import { openSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';

/** With `comes-and-goes`: the number of connections after which the server of worker 1 closes and listens again. */
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
  // Connections that were adopted before the close still come.
  if (!server.listening) return;
  const { port } = server.address();
  server.close(() => server.listen(port, '127.0.0.1'));
}
