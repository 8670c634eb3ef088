// Passes a socket with Node's own IPC to a forked process: `subprocess.js COUNT`; the socket is descriptor 4.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';

/** Sends under way: Node keeps one in flight and queues the rest, and an endless queue would measure the garbage collector. */
const WINDOW = 64;

const count = Number(process.argv[2]);
if (process.send) {
  receive();
} else {
  await send();
}

async function send(): Promise<void> {
  const passed = new Socket({ fd: 4, readable: true, writable: true });
  const receiver = fork(fileURLToPath(import.meta.url), [String(count)]);
  await once(receiver, 'message');
  const start = process.hrtime.bigint();
  const done = once(receiver, 'message');
  await Promise.all(Array.from({ length: WINDOW }, (_, lane) => sendLane(receiver, passed, lane)));
  await done;
  console.log(Number(process.hrtime.bigint() - start) / 1e9);
  receiver.disconnect();
  passed.destroy();
}

async function sendLane(receiver: ReturnType<typeof fork>, passed: Socket, lane: number): Promise<void> {
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
  process.on('message', (_message, handle) => {
    (handle as Socket).destroy();
    if (++received === count) process.send?.('done');
  });
  process.send?.('ready');
}
