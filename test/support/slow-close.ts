// Descriptors that are slow to close, from CPython: Node cannot make a socket linger. And what this process has to close.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';

import { native } from '../../src/fd/native.js';

/**
 * Program text: `lingering()` makes a connection whose close waits longer than any test runs, `linger(connection)` makes one
 * so, and `until_closing(port)` waits until the close of one with this port has begun.
 */
export const LINGER = `
import os, socket, struct, sys, time

def linger(connection):
    connection.setblocking(False)
    try:
        while True: connection.send(bytes(65536))
    except BlockingIOError: pass
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 10000))

def lingering():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    slow.connect(listener.getsockname())
    silent, _ = listener.accept()
    linger(slow)
    return slow, silent

ESTABLISHED = '01'
def until_closing(port):
    def is_closing(line):
        _, local, _, state = line.split()[:4]
        return local.endswith(':%04X' % port) and state != ESTABLISHED
    while not any(is_closing(line) for line in open('/proc/net/tcp')): time.sleep(0.1)
`;

/** Program text, after the above: passes a descriptor at the control socket at `path`, where none belongs. Returns 0 when it was too late. */
export const PASS = `
def pass_on(path, fd):
    control = socket.socket(socket.AF_UNIX)
    control.connect(path)
    try: return socket.send_fds(control, [b'x'], [fd])
    except (BrokenPipeError, ConnectionResetError): return 0 # it was refused before that
    finally: control.close()
`;

/** Passes a slow descriptor on its descriptor 3, of which it has no other then. */
const PASSES_SLOW = `${LINGER}
channel = socket.socket(fileno=3)
slow, silent = lingering()
socket.send_fds(channel, [b'x'], [slow.fileno()])
slow.close()
print('passed', flush=True)
sys.stdin.read()
`;

/** Program text: a listener at a path that passes a slow descriptor to the first client, and makes a file then. */
export const SLOW_LISTENER = `${LINGER}
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print('listening', flush=True)
client, _ = listener.accept()
slow, silent = lingering()
socket.send_fds(client, [b'x'], [slow.fileno()])
slow.close()
open(sys.argv[2], 'w').close()
sys.stdin.read()
`;

/** Something slow is on its way to one end of the pair: for the other end, and until what is returned is called. */
export async function passSlow(to: { readonly fd: number }): Promise<() => Promise<void>> {
  const child = spawn('python3', ['-c', PASSES_SLOW], { stdio: ['pipe', 'pipe', 'inherit', to.fd] });
  assert.ok(child.stdout);
  await once(child.stdout, 'data');
  return async () => {
    const closed = once(child, 'close');
    child.kill('SIGKILL');
    await closed;
  };
}

/** How many descriptors a thread of this process still has to close. */
export function slowCloses(): number {
  return native.closingInAll();
}
