// Sends its server to a child process, which works when the process has its own listening socket.
import { fork } from 'node:child_process';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';

if (process.send) {
  process.once('message', () => process.disconnect());
} else {
  const child = fork(fileURLToPath(import.meta.url));
  const server = createServer().listen(0, '127.0.0.1', () => {
    child.send('server', server, (error) => {
      console.log('sent', error?.code ?? 'well');
      child.kill();
      server.close();
    });
  });
}
