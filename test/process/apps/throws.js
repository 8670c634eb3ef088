// Throws what the path names, handles the exception itself, and exits at /exit or at a fatal error. It knows nothing of passfd.
import { createServer } from 'node:http';

const throwable = {
  '/error': new Error('an ordinary error'),
  '/fatal': new Error('a fatal error'),
  '/text': 'a text',
  '/null': null,
};

process.on('uncaughtException', (thrown) => {
  console.log('handled', String(thrown));
  if (thrown === throwable['/fatal']) process.exit(4);
});
const server = createServer(({ url }, response) => {
  response.end();
  if (url === '/exit') response.once('close', () => process.exit(3));
  setImmediate(() => {
    if (url in throwable) throw throwable[url];
  });
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
