// Answers with its process, at a path. As many apps do, it removes any file at the path before it listens, and its own at its exit.
import { rmSync } from 'node:fs';
import { createServer } from 'node:http';

const { SOCKET_PATH: path } = process.env;
rmSync(path, { force: true });
createServer((request, response) => {
  response.end(`process ${process.pid}\n`);
}).listen(path);
process.on('SIGTERM', () => process.exit(0));
process.on('exit', () => {
  rmSync(path, { force: true });
});
