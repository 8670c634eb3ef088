// Workers that became another user when they listened: they come back to the next dispatcher, and nobody else in their place.
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

/** By convention nobody's. */
const USER = '65534';

/** Looks at the workers, each by a process of its own. */
const MOST_LOOKS = 100;

const skip =
  process.platform !== 'linux' ? 'needs abstract sockets' : process.getuid?.() === 0 ? false : 'needs root';

describe('workers that became another user, which the control socket does not let in', { skip }, () => {
  it(
    'come back to each next dispatcher by the way that they opened before, and nobody else comes by it',
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

/** The abstract name, without its NUL, that a worker itself listens at. */
function wayBackOf(pid: number): string {
  const name = new RegExp(`@(passfd-worker-${pid}-[0-9a-f]{32})$`, 'm');
  return name.exec(readFileSync('/proc/net/unix', 'utf8'))?.[1] ?? '';
}
