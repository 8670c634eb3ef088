// Passes or takes descriptors over the socket at descriptor 3 with passfd: `passfd.js send|receive COUNT PER_MESSAGE`.
import { Descriptor, StreamSocket } from 'passfd';

const [, , role, countText, perMessageText] = process.argv;
const count = Number(countText);
const perMessage = Number(perMessageText);
using socket = new StreamSocket(new Descriptor(3));

if (role === 'send') await send();
else await receive();

async function send(): Promise<void> {
  using passed = new Descriptor(4);
  const passables = Array.from({ length: perMessage }, () => passed);
  const byte = Buffer.from('x');
  await socket.receiveExactly(1);
  const start = process.hrtime.bigint();
  for (let sent = 0; sent < count; sent += perMessage) await socket.send(byte, passables);
  await socket.receiveExactly(1);
  console.log(Number(process.hrtime.bigint() - start) / 1e9);
}

async function receive(): Promise<void> {
  await socket.send(Buffer.from('r'));
  for (let received = 0; received < count;) {
    using message = await socket.receive(1);
    if (!message) throw new Error(`The sender ended after ${received} of ${count} descriptors`);
    received += message.descriptors.length;
  }
  await socket.send(Buffer.from('d'));
}
