// TLS sessions under `passfd run`: a client resumes its session at another worker, and after each kind of replacement.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { visitByOpenssl, withoutOpenssl } from '../support/openssl.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Program } from '../support/program.js';
import { visits } from '../support/tls-client.js';

const VERSIONS = ['TLSv1.2', 'TLSv1.3'] as const;

/** Visits in a row, by one client for each version. */
const VISITS = 20;

/** Two workers take turns. */
const OPENSSL_VISITS = 3;

/** Each of these tests starts up to eight processes, one after the other. */
const DEADLINE_MS = 300_000;

const ca = readFileSync(app('certificate.pem'));

/** A service with two workers that speak TLS at one port, and clients that come back. */
interface Scene {
  /** Starts the service, or a dispatcher that takes its workers back, and waits until both workers serve. */
  start(): Promise<Program>;
  command(...args: readonly string[]): Promise<void>;
  /** The processes of the workers, when both are ready. */
  workers(): Promise<number[]>;
  /** How many visits of each version resume the session of the previous visit, and which workers have answered. */
  resumed(): Promise<Resumed>;
  /** The same for the client of OpenSSL: as many visits as there are workers, and one more. */
  resumedByOpenssl(): Promise<Resumed>;
}

interface Resumed {
  readonly counts: readonly number[];
  readonly workers: readonly string[];
}

function withScene(name: string, body: (scene: Scene) => Promise<void>): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const control = `${directory.path}/control`;
    let port = 0;
    let service: Program | undefined;
    const sessions = new Map<string, Buffer>();
    const opensslSessions = new Set<string>();
    const workers = async (): Promise<number[]> => {
      for (;;) {
        const status = await statusOf(control).catch(() => undefined);
        const ready = status?.workers.filter(({ state }) => state === 'ready') ?? [];
        if (ready.length === 2 && status?.workers.length === 2) return ready.map(({ pid }) => pid);
      }
    };
    const scene: Scene = {
      workers,
      start: async () => {
        const flags = ['--workers', '2', '--orphan-timeout', '60000', '--control', control];
        const program = start(...passfd('run', ...flags, app(name)));
        if (port === 0) port = Number((await program.line(/^listening (\d+)$/))[1]);
        service = program;
        await workers();
        return program;
      },
      command: async (...args) => {
        assert.equal(await start(...passfd(...args, '--control', control)).exit, 0);
      },
      resumed: async () => {
        const counts: number[] = [];
        const workers = new Set<string>();
        for (const version of VERSIONS) {
          const options = { ca, minVersion: version, maxVersion: version };
          // A client that has no session yet needs one visit to get one.
          const session = sessions.get(version) ?? (await visits(1, port, options)).session;
          assert.ok(session);
          const { made, session: last = session } = await visits(VISITS, port, { ...options, session });
          sessions.set(version, last);
          counts.push(made.filter(({ isResumed }) => isResumed).length);
          for (const { said } of made) workers.add(/\r\n\r\n.*?([12])/s.exec(said)?.[1] ?? said);
        }
        return { counts, workers: [...workers].sort() };
      },
      resumedByOpenssl: async () => {
        const counts: number[] = [];
        const workers = new Set<string>();
        for (const version of ['-tls1_2', '-tls1_3']) {
          const session = `${directory.path}/session${version}`;
          const flags = [version, '-CAfile', app('certificate.pem')];
          const visit = async (): Promise<number> => {
            const hasSession = opensslSessions.has(session);
            const { isResumed, said } = await visitByOpenssl(start, port, { session, hasSession, flags });
            opensslSessions.add(session);
            const [, worker = said] = /^Content-Length: 1\n\n([12])/m.exec(said) ?? [];
            workers.add(worker);
            return isResumed ? 1 : 0;
          };
          // The first visit has no session, and gets one.
          if (!opensslSessions.has(session)) assert.equal(await visit(), 0);
          let count = 0;
          for (let visits = 0; visits < OPENSSL_VISITS; visits++) count += await visit();
          counts.push(count);
        }
        return { counts, workers: [...workers].sort() };
      },
    };
    try {
      await body(scene);
    } finally {
      // Workers of a killed dispatcher would wait for the next one.
      service?.signal('SIGTERM');
      await service?.exit;
    }
  }, DEADLINE_MS);
}

const byOpensslEverywhere = { counts: VERSIONS.map(() => OPENSSL_VISITS), workers: ['1', '2'] };
const everywhere = { counts: VERSIONS.map(() => VISITS), workers: ['1', '2'] };

describe('a TLS session, of version 1.2 and of 1.3', () => {
  it(
    'is resumed at every worker, at each of 20 visits',
    withScene('https.js', async (scene) => {
      await scene.start();
      assert.deepEqual(await scene.resumed(), everywhere);
    }),
  );

  it(
    'is resumed at every worker of an HTTP/2 server, at each of 20 visits',
    withScene('http2.js', async (scene) => {
      await scene.start();
      assert.deepEqual(await scene.resumed(), everywhere);
    }),
  );

  it(
    'is resumed after a restart of the workers',
    withScene('https.js', async (scene) => {
      await scene.start();
      assert.deepEqual(await scene.resumed(), everywhere);
      const before = await scene.workers();
      await scene.command('restart');
      assert.ok((await scene.workers()).every((pid) => !before.includes(pid)));
      assert.deepEqual(await scene.resumed(), everywhere);
    }),
  );

  it(
    'is resumed after a takeover, also at workers that start after it',
    withScene('https.js', async (scene) => {
      await scene.start();
      assert.deepEqual(await scene.resumed(), everywhere);
      await scene.command('takeover');
      assert.deepEqual(await scene.resumed(), everywhere);
      await scene.command('restart');
      assert.deepEqual(await scene.resumed(), everywhere);
    }),
  );

  it(
    'is resumed after the dispatcher was killed, also at workers that start after that',
    withScene('https.js', async (scene) => {
      const killed = await scene.start();
      assert.deepEqual(await scene.resumed(), everywhere);
      const before = await scene.workers();
      killed.kill();
      await killed.ended;
      await scene.start();
      assert.deepEqual(await scene.workers(), before);
      assert.deepEqual(await scene.resumed(), everywhere);
      await scene.command('restart');
      assert.deepEqual(await scene.resumed(), everywhere);
    }),
  );

  it(
    'is resumed by openssl s_client at every worker, after a restart, and after the dispatcher was killed',
    { skip: withoutOpenssl },
    withScene('https.js', async (scene) => {
      const killed = await scene.start();
      assert.deepEqual(await scene.resumedByOpenssl(), byOpensslEverywhere);
      await scene.command('restart');
      assert.deepEqual(await scene.resumedByOpenssl(), byOpensslEverywhere);
      killed.kill();
      await killed.ended;
      await scene.start();
      assert.deepEqual(await scene.resumedByOpenssl(), byOpensslEverywhere);
    }),
  );
});
