// What a peer makes slow to close delays that peer's user alone: the service serves on, and its operator is answered.
import assert from 'node:assert/strict';
import { chmodSync, readdirSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { connect } from '../../src/fd/index.js';
import { Child } from '../support/child.js';
import { FakeWorker } from '../support/fake-worker.js';
import { temporaryDirectory } from '../support/files.js';
import { HttpClient } from '../support/http-client.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Program, type Start } from '../support/program.js';
import { withoutPython } from '../support/python.js';
import { LINGER, PASS } from '../support/slow-close.js';

const isRoot = process.getuid?.() === 0;

/** Users that a test may become; their names do not matter. */
const SLOW_USER = 65_533;
const OTHER_USER = 65_534;

/** What waits of one user then is too much. */
const TOO_MANY = 257;

/** More than there are threads to close what they pass. */
const MANY_USERS = Array.from({ length: 33 }, (_, index) => 60_000 + index);

/** All of them together keep so many descriptors of the service taken. */
const THOUSANDS = 4096;

/** A stranger that passes a slow descriptor, and nothing else. */
const STRANGER = `${LINGER}${PASS}
slow, silent = lingering()
port = slow.getsockname()[1]
path, said, flags, then, *user = sys.argv[1:]
if user: os.setgroups([]); os.setuid(int(user[0]))
control = socket.socket(socket.AF_UNIX)
control.connect(path.replace('@', '\\0'))
rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('i', slow.fileno()))
control.sendmsg([bytes.fromhex(said)], [rights], getattr(socket, flags, 0))
slow.close()
try: control.send(bytes.fromhex(then))
except (BrokenPipeError, ConnectionResetError): pass # it was refused before that
control.close()
print('passed', flush=True)
until_closing(port)
print('closing', flush=True)
sys.stdin.read()
`;

/** Makes the connection that it has inherited linger, and closes its own copy. */
const LINGERER = `${LINGER}
slow = socket.socket(fileno=3)
linger(slow)
slow.close()
print('done', flush=True)
`;

/** Many users, each with some slow closes. */
const USERS = `${LINGER}${PASS}
path = sys.argv[1]
users = [int(user) for user in sys.argv[2:]]
ports = []
silent_ends = []
for user in users:
    slow, silent = lingering()
    silent_ends.append(silent)
    ports.append(slow.getsockname()[1])
    os.seteuid(user)
    pass_on(path, slow.fileno())
    os.seteuid(0)
    slow.close()
print('passed', flush=True)
until_closing(ports[0])
print('closing', flush=True)
null = os.open('/dev/null', os.O_RDONLY)
for user in users:
    os.seteuid(user)
    for _ in range(${THOUSANDS} // len(users) + 1): pass_on(path, null)
    os.seteuid(0)
print('flooded', flush=True)
sys.stdin.read()
`;

/** A user, of whom one slow close is under way. */
const SLOW = `${LINGER}${PASS}
user = int(sys.argv[1])
os.setgroups([]); os.setgid(user); os.setuid(user)
path = sys.argv[2]
slow, silent = lingering()
port = slow.getsockname()[1]
pass_on(path, slow.fileno())
slow.close()
print('passed', flush=True)
until_closing(port)
print('closing', flush=True)
null = os.open('/dev/null', os.O_RDONLY)
`;

/** A user that is refused each time, and leaves a descriptor in the queue of each connection. */
const DENIED = `${SLOW}for _ in range(int(sys.argv[3])): pass_on(path, null)
print('flooded', flush=True)
sys.stdin.read()
`;

/** A user with too many slow closes, which connects until it is refused. */
const FLOOD = `${SLOW}for _ in range(${TOO_MANY}): pass_on(path, null)
while True:
    control = socket.socket(socket.AF_UNIX)
    control.connect(path)
    control.settimeout(0.1)
    try:
        if control.recv(1) == b'': break
    except ConnectionResetError: break
    except TimeoutError: pass
    control.close()
print('refused', flush=True)
sys.stdin.read()
`;

function python(start: Start, program: string, ...args: readonly string[]): Program {
  return start('python3', ['-c', program, ...args]);
}

/** A service with an app, and where it listens. */
async function running(start: Start, control: string, ...options: string[]): Promise<[Program, number]> {
  const words = ['run', '--workers', '1', '--listen', '127.0.0.1:0', '--control', control, ...options];
  const service = start(...passfd(...words, app('http.js')), { ownGroup: true });
  const [, port] = await service.errorLine(/"address":"127\.0\.0\.1:(\d+)".*"listening"/);
  await service.errorLine(/"worker ready"/);
  return [service, Number(port)];
}

/** Starts programs that may have so many descriptors. */
function atLimit(start: Start, limit: number): Start {
  return (command, args, options) =>
    start('/bin/sh', ['-c', 'ulimit -n "$0" && exec "$@"', String(limit), command, ...args], options);
}

/** A directory that every user can enter. */
async function openDirectory(): ReturnType<typeof temporaryDirectory> {
  const directory = await temporaryDirectory();
  chmodSync(directory.path, 0o755);
  return directory;
}

async function isServed(port: number): Promise<void> {
  using client = await HttpClient.connect(port);
  client.ask('/');
  assert.equal((await client.answer()).status, 200);
}

function allowing(...users: readonly number[]): string[] {
  return users.flatMap((user) => ['--allow-uid', String(user)]);
}

/** Has a stranger pass while the process is stopped: when that goes on, all has come, and it is the last to close it. */
async function passTo(pid: number, stranger: Program): Promise<void> {
  process.kill(pid, 'SIGSTOP');
  await stranger.line(/passed/);
  process.kill(pid, 'SIGCONT');
  await stranger.line(/closing/);
}

describe('a service', { skip: withoutPython }, () => {
  for (const [what, said, flags, then] of [
    ['before it has said anything', '78', '', ''],
    ['after the length of a frame', '00000004', '', ''],
    ['out of band', '78', 'MSG_OOB', ''],
    ['out of band, before a byte', '78', 'MSG_OOB', '78'],
  ] as const) {
    it(
      `serves on while the descriptor is slow to close that a stranger has passed ${what}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const [service, port] = await running(start, control);
        await passTo(service.pid, python(start, STRANGER, control, said, flags, then));
        await isServed(port);
        assert.equal((await statusOf(control)).workers.length, 1);
      }),
    );
  }

  it(
    'serves on while the descriptor is slow to close that a stranger has passed at the abstract socket of a worker',
    { skip: isRoot ? false : 'only root can become another user' },
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const [, port] = await running(start, control);
      const pid = (await statusOf(control)).workers[0]?.pid ?? 0;
      const [name = ''] =
        new RegExp(`@passfd-worker-${pid}-.*`).exec(readFileSync('/proc/net/unix', 'latin1')) ?? [];
      await passTo(pid, python(start, STRANGER, name, '78', '', '', String(SLOW_USER)));
      await isServed(port);
    }),
  );

  it(
    'serves on while the connection is slow to close that a worker has adopted and made to linger',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const service = start(...passfd('serve', '--listen', '127.0.0.1:0', '--control', control));
      const [, port] = await service.errorLine(/"address":"127\.0\.0\.1:(\d+)".*"listening"/);
      const address = { host: '127.0.0.1', port: Number(port) };
      using worker = await FakeWorker.join(control);
      await worker.serve();
      using first = await connect(address);
      const [connection] = (await worker.handoff()).descriptors;
      assert.ok(connection && !first.closed);
      await start('python3', ['-c', LINGERER], { descriptors: [connection.fd] }).exit;
      connection.close();
      await worker.adopt();
      using second = await connect(address);
      assert.equal((await worker.handoff()).descriptors.length, 1);
      assert.equal(second.closed, false);
      const { connections } = await statusOf(control);
      assert.equal(connections.adopted, 1);
    }),
  );

  it(
    'refuses a user with too many slow closes, and neither another user nor its own',
    { skip: isRoot ? false : 'only root can become another user' },
    withPrograms(async (start) => {
      await using directory = await openDirectory();
      const control = `${directory.path}/control`;
      const [service, port] = await running(start, control, ...allowing(SLOW_USER, OTHER_USER));
      const flood = python(start, FLOOD, String(SLOW_USER), control);
      await passTo(service.pid, flood);
      await flood.line(/refused/);
      await service.errorLine(/"code":"ERR_SLOW_CLOSE"/);
      await using other = new Child('other-user', { args: ['ask', control, String(OTHER_USER)] });
      assert.equal(await other.next(), 'ERR_PEER_DENIED');
      assert.equal((await statusOf(control)).workers.length, 1);
      await isServed(port);
    }),
  );

  it(
    'serves its clients while a user that may not connect takes all the descriptors that it can',
    { skip: isRoot ? false : 'only root can become another user' },
    withPrograms(async (start) => {
      await using directory = await openDirectory();
      const control = `${directory.path}/control`;
      const limit = 256;
      const [service, port] = await running(atLimit(start, limit), control, ...allowing(OTHER_USER));
      const denied = python(start, DENIED, String(SLOW_USER), control, String(limit));
      await passTo(service.pid, denied);
      await denied.line(/flooded/);
      await service.errorLine(/half of the descriptors/);
      await isServed(port);
      assert.ok(readdirSync(`/proc/${service.pid}/fd`).length < limit);
      denied.kill();
      // What it had made slow is closed by then.
      assert.equal((await statusOf(control)).workers.length, 1);
    }),
  );

  it(
    'answers its operator and its clients while thousands of slow closes wait, of more users than it has threads',
    { skip: isRoot ? false : 'only root can become another user' },
    withPrograms(async (start) => {
      await using directory = await openDirectory();
      const control = `${directory.path}/control`;
      const [service, port] = await running(start, control, ...allowing(...MANY_USERS));
      const users = python(start, USERS, control, ...MANY_USERS.map(String));
      await passTo(service.pid, users);
      await users.line(/flooded/);
      while (readdirSync(`/proc/${service.pid}/fd`).length < THOUSANDS) await nextTurn();
      assert.equal((await statusOf(control)).workers.length, 1);
      await isServed(port);
    }),
  );
});
