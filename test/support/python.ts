// CPython as the other process: it can make what Node cannot, such as a memfd or a terminal.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';

import { socketPair, type Message } from '../../src/fd/index.js';
import { received } from './stream.js';

/** Why these tests cannot run here, or false when they can. */
export const withoutPython: string | false =
  spawnSync('python3', ['-c', 'import os, socket; os.memfd_create, socket.send_fds']).status === 0
    ? false
    : 'needs Python 3.9 on Linux';

/** Runs a program that ends by itself, with an open socket as its descriptor 3. */
export async function python(program: string, channel: number | 'ignore' = 'ignore'): Promise<void> {
  const child = spawn('python3', ['-c', program], { stdio: ['ignore', 'inherit', 'inherit', channel] });
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`Python ended with ${String(code)}`);
}

/** What a program passes on its socket `channel`: one message, which the caller owns. */
export async function fromPython(program: string): Promise<Message> {
  const [here, there] = socketPair();
  using receiver = here;
  {
    using sender = there;
    await python(`import os, socket\nchannel = socket.socket(fileno=3)\n${program}`, sender.fd);
  }
  return await received(receiver.receive());
}
