// `npm start [PORT]`: the main job in one terminal, a server and a worker in processes of their own.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { readPort } from './command-line.js';

const usage = 'start [port]';
const port = String(readPort(process.argv[2] ?? '0', usage));
const directory = await mkdtemp(join(tmpdir(), 'passfd-'));
const address = join(directory, 'server');

const server = start('server', [address, port], 'pipe');
const worker = start('worker', [address], 'inherit');
const ends = Promise.all([once(server, 'close'), once(worker, 'close')]);

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  // Ctrl-C reaches the whole process group, a `kill` only this process: so it is passed on. A second one may cut the
  // server's own end short, which does no harm here.
  process.on(signal, () => server.kill(signal));
}

if (server.stdout) {
  for await (const line of createInterface({ input: server.stdout })) {
    console.log(line);
    const [, listening] = /^SERVER: Listening on .*:(\d+)$/.exec(line) ?? [];
    if (listening !== undefined) sayHowToTryIt(listening);
  }
}
// The server has ended. The worker would end with it once its clients have hung up; here nobody waits for them.
worker.kill();
await ends;
await rm(directory, { recursive: true });
process.exitCode = server.exitCode ?? (server.killed ? 0 : 1);

function start(name: string, args: string[], stdout: 'pipe' | 'inherit'): ChildProcess {
  const file = fileURLToPath(new URL(`./${name}.js`, import.meta.url));
  return spawn(process.execPath, [file, ...args], { stdio: ['ignore', stdout, 'inherit'] });
}

function sayHowToTryIt(port: string): void {
  console.log(`
The server accepts clients and passes each to the worker, which answers it. Try it in another terminal:

    printf 'hello\\n' | nc -N 127.0.0.1 ${port}

or, without nc:

    python3 -c "import socket; s = socket.create_connection(('127.0.0.1', ${port})); s.sendall(b'hello'); print(s.recv(99))"

Ctrl-C ends both.
`);
}
