// Passes or takes the socket at descriptor 4 over the one at 3: `passfd.js send|receive WARM_UP COUNT PER_MESSAGE`.
import { Descriptor, StreamSocket } from 'passfd';

const [, , role, ...numbers] = process.argv;
const [warmUp = 0, count = 0, perMessage = 1] = numbers.map(Number);
/** Inherited by the sender; a bare number is lent. */
const PASSED = 4;

using socket = new StreamSocket(new Descriptor(3));

// What the first descriptors cost, such as compiling, is not counted.
for (const part of [warmUp, count]) {
  if (role === 'send') await send(part);
  else await receive(part);
}

/** Prints the seconds that it took, from the receiver's "ready" to its "done". */
async function send(count: number): Promise<void> {
  const passables = Array.from({ length: perMessage }, () => PASSED);
  const byte = Buffer.from('x');
  await socket.receiveExactly(1);
  const start = process.hrtime.bigint();
  for (let sent = 0; sent < count; sent += perMessage) await socket.send(byte, passables);
  await socket.receiveExactly(1);
  console.log(Number(process.hrtime.bigint() - start) / 1e9);
}

async function receive(count: number): Promise<void> {
  await socket.send(Buffer.from('r'));
  for (let received = 0; received < count;) {
    using message = await socket.receive(1);
    if (!message) throw new Error(`The sender ended after ${received} of ${count} descriptors`);
    received += message.descriptors.length;
  }
  await socket.send(Buffer.from('d'));
}
