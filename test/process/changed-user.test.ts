// Workers that changed their user after they listened: they return to the next dispatcher, and no other process can in their place.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { isAlive } from '../support/processes.js';
import { withPrograms } from '../support/program.js';

const impostor = fileURLToPath(new URL('fixtures/impostor.js', import.meta.url));

/** By convention the user `nobody`. */
const USER = '65534';

/** Reads the state of each worker in a process of its own. */
const MOST_LOOKS = 100;

const skip =
  process.platform !== 'linux' ? 'needs abstract sockets' : process.getuid?.() === 0 ? false : 'needs root';

describe('workers that changed to a user which the control socket refuses', { skip }, () => {
  it(
    'return to each next dispatcher by their way back, which no other process can use',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const [control, web] = [`${directory.path}/control`, `${directory.path}/web`];
      const flags = ['--workers', '2', '--orphan-timeout', '60000', '--control', control];
      const words = passfd('run', ...flags, '--listen', `unix:${web}`, app('changes-user.js'));
      const seen = new Set<number>();
      const workers = async (): Promise<number[]> => {
        for (let tries = 0; tries < MOST_LOOKS; tries++) {
          const all = (await statusOf(control).catch(() => undefined))?.workers ?? [];
          for (const { pid } of all) seen.add(pid);
          if (all.length === 2 && all.every(({ state }) => state === 'ready')) {
            return all.map(({ pid }) => pid);
          }
        }
        throw new Error('There are never two workers, both ready');
      };
      const ask = async (): Promise<string> => {
        const socket = connect(web);
        socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
        return text(socket);
      };
      try {
        let service = start(...words);
        const before = await workers();
        assert.match(await ask(), new RegExp(`process (${before.join('|')}) of user ${USER}\n`));
        const [one = 0] = before;
        const other = start(process.execPath, [impostor, String(one), USER, wayBackOf(one)]);
        await other.line(/listening/);
        await other.line(/not let in/);
        for (let kills = 0; kills < 2; kills++) {
          service.signal('SIGKILL');
          await service.ended;
          service = start(...words);
          assert.deepEqual(await workers(), before);
          assert.match(await ask(), new RegExp(`process (${before.join('|')}) of user ${USER}\n`));
          assert.deepEqual(
            service.errorLines.filter((line) => line.includes('"process started"')),
            [],
          );
        }
        assert.ok(!other.lines.includes('heard'));
        service.signal('SIGTERM');
        assert.equal(await service.exit, 0);
      } finally {
        for (const pid of seen) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
      }
    }, 120_000),
  );
});

/** The abstract name, without its NUL, of the way back of a worker. */
function wayBackOf(pid: number): string {
  const name = new RegExp(`@(passfd-worker-${pid}-[0-9a-f]{32})$`, 'm');
  return name.exec(readFileSync('/proc/net/unix', 'utf8'))?.[1] ?? '';
}
