// D-Bus, end to end: dbus-native on a DescriptorStream passes a file from one client of a bus to another.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { describe, it } from 'node:test';

import dbus from 'dbus-native';

import { connect, DescriptorStream, type Descriptor } from '../../src/fd/index.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { openFile, takeTexts, temporaryDirectory } from '../support/files.js';

const skip = spawnSync('dbus-daemon', ['--version']).status === 0 ? false : 'needs dbus-daemon';

const call = { path: '/test', interface: 'org.passfd.Test', member: 'Take' };

/** A bus of its own, that lets its clients do everything, and its address. */
async function startBus(directory: string): Promise<AsyncDisposable & { readonly path: string }> {
  const path = `${directory}/bus`;
  await writeFile(
    `${directory}/bus.conf`,
    `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
      "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
    <busconfig>
      <type>session</type>
      <listen>unix:path=${path}</listen>
      <policy context="default">
        <allow send_destination="*"/>
        <allow receive_sender="*"/>
        <allow own="*"/>
      </policy>
    </busconfig>`,
  );
  const daemon = spawn(
    'dbus-daemon',
    ['--nofork', '--print-address', `--config-file=${directory}/bus.conf`],
    {
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  );
  const closed = once(daemon, 'close');
  await Promise.race([
    once(daemon.stdout, 'data'),
    closed.then(() => Promise.reject(new Error('dbus-daemon ended at once'))),
  ]);
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      daemon.kill();
      await closed;
    },
  };
}

/** dbus-native hands out what the stream's 'fds' event brought. */
interface BusMessage {
  readonly fds?: readonly Descriptor[];
}

describe('dbus-native on DescriptorStreams', () => {
  it(
    'passes files from one client of a bus to another, among calls without any',
    { skip },
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      await using bus = await startBus(directory.path);
      const streams = [
        new DescriptorStream(await connect(bus.path)),
        new DescriptorStream(await connect(bus.path)),
      ];
      const [service, client] = streams.map((stream) => dbus.createClient({ stream }));
      assert.ok(service && client);
      await service.requestName('org.passfd.Test', 0);
      const take = (_indices: number[], { fds = [] }: BusMessage): string => takeTexts(fds).join();
      service.setMethodCallHandler(call.path, call.interface, call.member, [take, 's']);

      using first = openFile('first');
      using second = openFile('second');
      const answers = await Promise.all(
        [[first], [], [second, first], [second]].map((files) =>
          client.invoke({
            ...call,
            destination: 'org.passfd.Test',
            signature: 'ah',
            body: [files.map((_, index) => index)],
            fds: files.map(({ fd }) => fd),
          }),
        ),
      );
      assert.deepEqual(answers, ['first', '', 'second,first', 'second']);

      for (const stream of streams) {
        const closed = once(stream, 'close');
        stream.end();
        await closed;
      }
    }),
  );
});
