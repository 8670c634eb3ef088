// Answers each connection's number, and keeps a record of it first: `numbers.js RECORDS-DIRECTORY`.
import { openSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';

const records = openSync(`${process.argv[2]}/${process.pid}`, 'a');
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
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
