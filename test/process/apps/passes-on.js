// Passes its connections on to its own processes, which echo. The first argument says how: by `cluster`, by `send`,
// by a `send` after which this process closes its own handle (`keep-open`), or as the standard streams (`stdio`) of a
// process that knows nothing of Node.
import { fork, spawn } from 'node:child_process';
import cluster from 'node:cluster';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';

const [, , way] = process.argv;

const echo = (socket) => {
  socket.on('error', () => {});
  socket.pipe(socket);
};

const serve = (onConnection) => {
  const server = createServer({ pauseOnConnect: true }, onConnection);
  server.listen(0, '127.0.0.1', () => console.log('listening', server.address().port));
};

if (way === 'cluster' && cluster.isPrimary) {
  cluster.fork();
} else if (way === 'cluster') {
  createServer(echo).listen(0, '127.0.0.1', function () {
    console.log('listening', this.address().port);
  });
} else if (way === 'send') {
  const child = fork(fileURLToPath(import.meta.url), ['child']);
  serve((socket) => child.send('serve it', socket));
} else if (way === 'keep-open') {
  const child = fork(fileURLToPath(import.meta.url), ['child']);
  serve((socket) => child.send('serve it', socket, { keepOpen: true }, () => socket.destroy()));
} else if (way === 'stdio') {
  serve((socket) => {
    spawn('cat', { stdio: [socket, socket, 'inherit'] });
    socket.destroy();
  });
} else {
  process.on('message', (_, socket) => {
    echo(socket);
    socket.resume();
  });
}
