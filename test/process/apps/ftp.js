// A server of sessions with data connections of their own, as FTP has them. A client sends a line, and gets one:
// `PASV` and `PASV PORT` listen for the session's data connection, which echoes; `QUIT` ends the session.
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';

const { PASSFD_WORKER_ID: worker = 'alone' } = process.env;
let sessions = 0;

const server = createServer((control) => {
  const session = `${worker}.${++sessions}`;
  const say = (...words) => control.writable && control.write(`${words.join(' ')}\n`);
  control.on('error', () => {});
  say('220', session);
  createInterface({ input: control }).on('line', (line) => {
    const [command, port = '0'] = line.split(' ');
    if (command === 'QUIT') control.end();
    if (command !== 'PASV') return;
    const data = createServer((connection) => {
      data.close();
      connection.on('error', () => {});
      connection.on('close', () => console.log(session, 'data closed'));
      connection.write(`150 ${session}\n`);
      connection.pipe(connection);
    });
    data.on('close', () => console.log(session, 'server closed'));
    data.on('error', ({ code }) => say('425', code));
    data.listen(Number(port), '127.0.0.1', () => say('227', data.address().port));
  });
});
process.on('SIGTERM', () => {
  console.log(worker, 'SIGTERM');
  server.close();
});
server.listen(0, '127.0.0.1', () => console.log('listening', server.address().port));
