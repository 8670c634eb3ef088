// A long download, and a WebSocket that echoes. It knows nothing of passfd.
import { createServer } from 'node:http';
import { Readable } from 'node:stream';
import { WebSocketServer } from 'ws';

const CHUNK_BYTES = 65_536;

/** Byte n of the download is n % 251. */
function* chunks(bytes) {
  for (let sent = 0; sent < bytes; sent += CHUNK_BYTES) {
    const chunk = Buffer.alloc(Math.min(CHUNK_BYTES, bytes - sent));
    for (let index = 0; index < chunk.length; index++) chunk[index] = (sent + index) % 251;
    yield chunk;
  }
}

const server = createServer((request, response) => {
  Readable.from(chunks(Number(request.url.slice(1)))).pipe(response);
});
new WebSocketServer({ server }).on('connection', (socket) => {
  socket.on('message', (words) => socket.send(`${process.pid} ${words}`));
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
