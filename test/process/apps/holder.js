// Holds a port until it is ended, and sends its number to the parent.
import { createServer } from 'node:net';

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  process.send(server.address().port);
});
process.on('disconnect', () => {
  process.exit();
});
