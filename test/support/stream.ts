// What the tests of StreamSocket share: connected pairs, a receive that has to bring something, a full socket.
import assert from 'node:assert/strict';

import { MAX_DESCRIPTORS, socketPair, type Message, type StreamSocket } from '../../src/fd/index.js';
import { keepsDescriptors } from './descriptors.js';
import { isPending } from './loop.js';

/** The body of a test that gets two connected sockets, and leaves no descriptor behind. */
export function onPair(
  body: (left: StreamSocket, right: StreamSocket) => Promise<void> | void,
): () => Promise<void> {
  return keepsDescriptors(async () => {
    const [left, right] = socketPair();
    try {
      await body(left, right);
    } finally {
      left.destroy();
      right.destroy();
    }
  });
}

/** Waits for a message that has to come. */
export async function received(receive: Promise<Message | null>): Promise<Message> {
  const message = await receive;
  assert.ok(message, 'the stream ended');
  return message;
}

/** Receives the next message, and closes its descriptors. @returns null at the end of the stream */
export async function receivedText(socket: StreamSocket): Promise<string | null> {
  using message = await socket.receive();
  return message?.bytes.toString() ?? null;
}

/** Receives until so many bytes are there. */
export async function receivedBytes(socket: StreamSocket, length: number): Promise<Buffer> {
  using message = await received(socket.receiveExactly(length, { descriptors: MAX_DESCRIPTORS }));
  return message.bytes;
}

/** Sends until the kernel takes no more. @returns how many bytes it took, and the send that waits */
export async function fill(socket: StreamSocket): Promise<{ taken: number; waiting: Promise<void> }> {
  const chunk = Buffer.alloc(16_384, 'f');
  for (let taken = 0; ; taken += chunk.length) {
    const waiting = socket.send(chunk);
    if (await isPending(waiting)) return { taken, waiting };
    await waiting;
  }
}
