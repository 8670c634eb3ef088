// The view of a fixture: its channel to the test that started it (see Child), and its reports to it.
import { Descriptor, StreamSocket, type Message } from '../../src/fd/index.js';

export const channel = new StreamSocket(new Descriptor(3));

/** Tells the test a fact; anything that JSON can say. */
export function report(fact: unknown): void {
  process.send?.(fact);
}

/** The next message of the test, which has to come. */
export async function nextMessage(): Promise<Message> {
  const message = await channel.receive();
  if (!message) throw new Error('The test closed the channel');
  return message;
}
