// How many descriptors per second go from one process to another, and what Python and Node's own IPC reach.
//
// Every contestant passes the same connected TCP socket, again and again, from one process to another that closes each
// copy. A trial is timed by the sender: from the receiver's "ready" to its "done".
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createConnection, createServer, type AddressInfo, type Socket } from 'node:net';
import os from 'node:os';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';

import { socketPair } from 'passfd';

import { median, ratios, takeTurns, type Contestant, type Outcome } from './trials.js';

/** Descriptors of one trial: enough for one to three seconds, so that starting up and compiling weigh little. */
const COUNTS = { single: 200_000, batch: 3_024_000, subprocess: 10_000 };

const PER_BATCH = 252;

export async function run({ quick }: { quick: boolean }): Promise<void> {
  const scale = quick ? 0.1 : 1;
  const single = Math.round(COUNTS.single * scale);
  const batch = Math.round((COUNTS.batch * scale) / PER_BATCH) * PER_BATCH;
  const subprocessCount = Math.round(COUNTS.subprocess * scale);
  using connection = await connectedSocket();

  const passfd = ['passfd', process.execPath, compiled('passfd')] as const;
  const python = ['Python send_fds', 'python3', source('descriptors.py')] as const;
  const outcomes = await takeTurns(
    [
      paired(...passfd, single, 1, connection.socket),
      paired(...python, single, 1, connection.socket),
      subprocess(subprocessCount, connection.socket),
      paired(...passfd, batch, PER_BATCH, connection.socket),
      paired(...python, batch, PER_BATCH, connection.socket),
    ],
    quick ? 2 : 7,
  );
  report(outcomes);
}

interface ConnectedSocket extends Disposable {
  readonly socket: Socket;
}

/** A connected TCP socket of this process, which the senders inherit. */
async function connectedSocket(): Promise<ConnectedSocket> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const socket = createConnection((server.address() as AddressInfo).port, '127.0.0.1');
  const [accepted] = (await once(server, 'connection')) as [Socket];
  server.close();
  return {
    socket,
    [Symbol.dispose]: () => {
      socket.destroy();
      accepted.destroy();
    },
  };
}

/** Sender and receiver are the same program in two processes, joined by a socket pair at descriptor 3. */
function paired(
  label: string,
  command: string,
  file: string,
  count: number,
  perMessage: number,
  passed: Socket,
): Contestant {
  const warmUp = warmUpOf(count, perMessage);
  const args = (role: string): string[] => [file, role, ...[warmUp, count, perMessage].map(String)];
  return {
    name: `${label}, ${perMessage} per message`,
    trial: async () => {
      const [near, far] = socketPair();
      const receiver = spawn(command, args('receive'), {
        stdio: ['ignore', 'ignore', 'inherit', far.fd],
      });
      const sender = spawn(command, args('send'), {
        stdio: ['ignore', 'pipe', 'inherit', near.fd, passed],
      });
      near.destroy();
      far.destroy();
      return finish(sender, count, receiver);
    },
  };
}

function subprocess(count: number, passed: Socket): Contestant {
  return {
    name: 'Node subprocess.send',
    trial: () =>
      finish(
        spawn(process.execPath, [compiled('subprocess'), String(warmUpOf(count, 1)), String(count)], {
          stdio: ['ignore', 'pipe', 'inherit', 'ignore', passed],
        }),
        count,
      ),
  };
}

/** Descriptors before the clock starts: a fifth of those that count, in whole messages. */
function warmUpOf(count: number, perMessage: number): number {
  return Math.max(1, Math.round(count / 5 / perMessage)) * perMessage;
}

/** @returns descriptors per second, from the seconds that the sender prints last */
async function finish(sender: ChildProcess, count: number, receiver?: ChildProcess): Promise<number> {
  const children = receiver ? [sender, receiver] : [sender];
  const ends = Promise.all(children.map((child) => once(child, 'close')));
  const [, seconds] = sender.stdout ? (await text(sender.stdout)).split('\n').map(Number) : [];
  await ends;
  for (const child of children) {
    if (child.exitCode !== 0) {
      throw new Error(`${child.spawnargs.join(' ')} ended with ${String(child.exitCode)}`);
    }
  }
  return count / (seconds ?? Number.NaN);
}

function report(outcomes: readonly Outcome[]): void {
  console.log(`${os.cpus().length} cores, ${os.cpus()[0]?.model ?? 'unknown'}, ${os.type()} ${os.release()}`);
  console.log(
    `Node ${process.version}, ${execFileSync('python3', ['--version'], { encoding: 'utf8' }).trim()}\n`,
  );
  console.log(`${'descriptors per second'.padEnd(36)}${'median'.padStart(12)}   spread`);
  for (const outcome of outcomes) {
    const { name, figures } = outcome;
    const spread = `${thousands(Math.min(...figures))} .. ${thousands(Math.max(...figures))}`;
    console.log(`${name.padEnd(36)}${thousands(median(figures)).padStart(12)}   ${spread}`);
  }
  console.log(`\n${'ratio, round by round'.padEnd(60)}${'median'.padStart(8)}   spread`);
  const [single, pythonSingle, node, batch, pythonBatch] = outcomes;
  for (const [a, b] of [
    [single, pythonSingle],
    [single, node],
    [batch, pythonBatch],
  ]) {
    if (!a || !b) continue;
    const all = ratios(a, b);
    const spread = `${Math.min(...all).toFixed(2)} .. ${Math.max(...all).toFixed(2)}`;
    console.log(`${`${a.name} / ${b.name}`.padEnd(60)}${median(all).toFixed(2).padStart(8)}   ${spread}`);
  }
}

function thousands(figure: number): string {
  return Math.round(figure).toLocaleString('en-US');
}

function compiled(name: string): string {
  return fileURLToPath(new URL(`./descriptors/${name}.js`, import.meta.url));
}

/** Python is not compiled: it stays in the source tree, two levels up from `build/bench`. */
function source(name: string): string {
  return fileURLToPath(new URL(`../../bench/descriptors/${name}`, import.meta.url));
}
