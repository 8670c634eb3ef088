// Every kind of descriptor goes to another process, is the same open file there, and becomes the right Node object.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readSync, writeSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { connect as connectNode, createServer, type Socket } from 'node:net';
import { describe, it } from 'node:test';

import { connect, Descriptor, listen, socketPair, type Passable } from '../../src/fd/index.js';
import { Child } from '../support/child.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { openFile, temporaryDirectory, textOf } from '../support/files.js';
import { textUntilEnd } from '../support/node-net.js';
import { fromPython, withoutPython } from '../support/python.js';
import { receivedText } from '../support/stream.js';

interface Adopted {
  readonly kind: string;
  readonly family?: string;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly name: string;
}

/** Passes it to a process that makes a Node object of it. @returns what that process says of it, and the process */
async function pass(passable: Passable): Promise<{ adopted: Adopted; child: Child }> {
  const child = new Child('adopt');
  await child.channel.send(Buffer.from('x'), [passable]);
  return { adopted: await child.next<Adopted>(), child };
}

describe('a connection that is passed', () => {
  for (const transport of ['tcp', 'unix'] as const) {
    it(
      `becomes a net.Socket there, over ${transport}`,
      keepsDescriptors(async () => {
        await using directory = await temporaryDirectory();
        await using acceptor = await listen(
          transport === 'tcp' ? { host: '127.0.0.1', port: 0 } : `${directory.path}/s`,
        );
        using client = await connect(acceptor.address);
        const accepted = await acceptor.accept();
        const { adopted, child } = await pass(accepted);
        await using served = child;
        accepted.close();
        assert.deepEqual(adopted, {
          kind: 'stream',
          family: transport === 'tcp' ? 'ipv4' : 'unix',
          readable: true,
          writable: true,
          name: 'Socket',
        });
        await client.send(Buffer.from('hello'));
        assert.equal(await receivedText(client), 'HELLO');
        await client.end();
        assert.equal(await client.receive(), null);
        assert.equal(await served.exit, 0);
      }),
    );
  }
});

describe('a listening socket that is passed', () => {
  it(
    'becomes a net.Server there, which takes the connections that waited',
    keepsDescriptors(async () => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using client = await connect(acceptor.address); // in the backlog, before anybody accepts
      const { adopted, child } = await pass(acceptor);
      await using served = child;
      assert.deepEqual([adopted.kind, adopted.name], ['listener', 'Server']);
      assert.equal(await receivedText(client), 'from the child');
      await client.end();
      assert.equal(await served.exit, 0);
      assert.equal(acceptor.closed, false);
    }),
  );

  it(
    'is lent by a net.Server, which goes on accepting here',
    keepsDescriptors(async () => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      const { adopted, child } = await pass(server);
      assert.deepEqual([adopted.kind, adopted.name], ['listener', 'Server']);
      child.kill();
      assert.equal(await child.exit, 'SIGKILL');
      child.channel.destroy();
      const connection = once(server, 'connection') as Promise<[Socket]>;
      const client = connectNode((server.address() as { port: number }).port, '127.0.0.1');
      const [socket] = await connection;
      client.destroy();
      socket.destroy();
      server.close();
      await once(server, 'close');
    }),
  );
});

describe('a UDP socket that is passed', () => {
  it(
    'becomes a dgram.Socket there',
    keepsDescriptors(async () => {
      const bound = createSocket('udp4').bind(0, '127.0.0.1');
      const client = createSocket('udp4').bind(0, '127.0.0.1');
      await Promise.all([once(bound, 'listening'), once(client, 'listening')]);
      const { port } = bound.address();
      const { adopted, child } = await pass(bound);
      await using served = child;
      bound.close();
      assert.deepEqual([adopted.kind, adopted.family, adopted.name], ['datagram', 'ipv4', 'Socket']);
      client.send('hello', port, '127.0.0.1');
      assert.equal(String((await once(client, 'message'))[0]), 'HELLO');
      client.close();
      assert.equal(await served.exit, 0);
    }),
  );
});

describe('an end of a pipe that is passed', () => {
  it(
    'is read there as a net.Socket',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      using ends = await fromPython('socket.send_fds(channel, [b"x"], [*os.pipe()])');
      const [read, write] = ends.takeDescriptors() as [Descriptor, Descriptor];
      const { adopted, child } = await pass(read);
      await using served = child;
      read.close();
      assert.deepEqual(adopted, { kind: 'pipe', readable: true, writable: false, name: 'Socket' });
      writeSync(write.fd, 'through the pipe');
      write.close();
      assert.equal(await served.next(), 'through the pipe');
      assert.equal(await served.exit, 0);
    }),
  );

  it(
    'is written there as a net.Socket',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      using ends = await fromPython('socket.send_fds(channel, [b"x"], [*os.pipe()])');
      const [read, write] = ends.takeDescriptors() as [Descriptor, Descriptor];
      const { adopted, child } = await pass(write);
      await using served = child;
      write.close();
      assert.deepEqual(adopted, { kind: 'pipe', readable: false, writable: true, name: 'Socket' });
      assert.equal(await textUntilEnd(read.toSocket()), 'from the child');
      assert.equal(await served.exit, 0);
    }),
  );
});

describe('a file that is passed', () => {
  it(
    'shares its offset with the sender',
    keepsDescriptors(async () => {
      using file = openFile('');
      writeSync(file.fd, 'read here, read there', 0); // a positioned write leaves the offset at 0
      const start = Buffer.alloc(11);
      readSync(file.fd, start);
      assert.equal(start.toString(), 'read here, ');
      const { adopted, child } = await pass(file);
      await using served = child;
      assert.deepEqual([adopted.kind, adopted.name], ['file', 'FileHandle']);
      assert.equal(await served.next(), 'read there');
      assert.equal(await served.exit, 0);
      writeSync(file.fd, ', and here');
      assert.equal(textOf(file), 'read here, read therefrom the child, and here');
    }),
  );

  it(
    'is lent by a FileHandle, which stays open here',
    keepsDescriptors(async () => {
      await using handle = await open(new URL(import.meta.url));
      const { adopted, child } = await pass(handle);
      await using served = child;
      assert.deepEqual(adopted, { kind: 'file', readable: true, writable: false, name: 'FileHandle' });
      served.kill();
      assert.equal((await handle.stat()).isFile(), true);
    }),
  );

  it(
    'may have no name at all: a memfd',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      using message = await fromPython(`
memory = os.memfd_create("name")
os.write(memory, b"in memory")
os.lseek(memory, 3, 0)
socket.send_fds(channel, [b"x"], [memory])`);
      using memory = message.takeDescriptor();
      const { adopted, child } = await pass(memory);
      await using served = child;
      assert.deepEqual([adopted.kind, adopted.name], ['file', 'FileHandle']);
      assert.equal(await served.next(), 'memory');
      assert.equal(await served.exit, 0);
    }),
  );
});

describe('a terminal that is passed', () => {
  it(
    'becomes a FileHandle there',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      using message = await fromPython('socket.send_fds(channel, [b"x"], [*os.openpty()])');
      using primary = message.takeDescriptor();
      using secondary = message.takeDescriptor();
      const { adopted, child } = await pass(secondary);
      await using served = child;
      assert.deepEqual(adopted, { kind: 'tty', readable: true, writable: true, name: 'FileHandle' });
      writeSync(primary.fd, 'typed\n');
      assert.equal(await served.next(), 'typed\n');
      assert.equal(await served.exit, 0);
    }),
  );
});

describe('a directory that is passed', () => {
  it(
    'becomes a FileHandle there',
    keepsDescriptors(async () => {
      await using handle = await open('/');
      const { adopted, child } = await pass(handle);
      await using served = child;
      assert.deepEqual(adopted, { kind: 'directory', readable: true, writable: false, name: 'FileHandle' });
      assert.equal(await served.exit, 0);
    }),
  );
});

describe('a Descriptor that a child inherits', () => {
  it(
    'is what `stdio` of spawn takes',
    keepsDescriptors(async () => {
      using file = openFile('');
      const stdio = ['ignore', file, 'inherit'] as unknown as ['ignore', number, 'inherit'];
      const child = spawn('echo', ['from the child'], { stdio });
      assert.deepEqual(await once(child, 'close'), [0, null]);
      assert.equal(textOf(file), 'from the child\n');
    }),
  );

  it(
    'is the only one: every other is close-on-exec',
    keepsDescriptors(async () => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using client = await connect(acceptor.address);
      using accepted = await acceptor.accept();
      const [left, right] = socketPair();
      using sender = left;
      using receiver = right;
      using file = openFile('file');
      await sender.send(Buffer.from('x'), [file]);
      using message = await receiver.receive();
      using passed = message?.takeDescriptor();
      using duplicate = accepted.duplicate();
      const made = [acceptor, client, accepted, sender, passed, duplicate];
      using output = openFile('');
      const script = 'for fd; do [ -e /proc/self/fd/$fd ] && echo "$fd leaks"; done; echo looked';
      const numbers = made.map((descriptor) => String(descriptor?.fd));
      const child = spawn('/bin/sh', ['-c', script, 'sh', ...numbers], {
        stdio: ['ignore', output.fd, 'inherit'],
      });
      await once(child, 'close');
      assert.equal(textOf(output), 'looked\n');
    }),
  );
});
