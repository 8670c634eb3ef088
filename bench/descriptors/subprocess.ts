// Passes a socket with Node's own IPC to a forked process: `subprocess.js WARM_UP COUNT`; the socket is descriptor 4.
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';

/** Sends under way: Node keeps one in flight and queues the rest, and an endless queue would measure the garbage collector. */
const WINDOW = 64;

const parts = process.argv.slice(2).map(Number);
if (process.send) {
  receive();
} else {
  await send();
}

async function send(): Promise<void> {
  const passed = new Socket({ fd: 4, readable: true, writable: true });
  const receiver = fork(fileURLToPath(import.meta.url), process.argv.slice(2));
  await once(receiver, 'message');
  for (const count of parts) {
    const start = process.hrtime.bigint();
    const done = once(receiver, 'message');
    await Promise.all(Array.from({ length: WINDOW }, (_, lane) => sendLane(receiver, passed, lane, count)));
    await done;
    console.log(Number(process.hrtime.bigint() - start) / 1e9);
  }
  receiver.disconnect();
  passed.destroy();
}

async function sendLane(receiver: ChildProcess, passed: Socket, lane: number, count: number): Promise<void> {
  for (let sent = lane; sent < count; sent += WINDOW) {
    await new Promise<void>((resolve, reject) => {
      receiver.send('x', passed, { keepOpen: true }, (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }
}

function receive(): void {
  let received = 0;
  let [expected = 0, ...later] = parts;
  process.on('message', (_message, handle) => {
    (handle as Socket).destroy();
    if (++received < expected) return;
    received = 0;
    [expected = 0, ...later] = later;
    process.send?.('done');
  });
  process.send?.('ready');
}
