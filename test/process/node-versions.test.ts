// The smallest app under each supported version of Node that was fetched: two workers, a restart, a stop.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd } from '../support/passfd.js';
import { withPrograms, type Program } from '../support/program.js';

/** The oldest version that package.json allows, and the maintained release lines. */
const VERSIONS = ['20.19.0', '22', '24', '26'];

const WORKERS = 2;

interface Answer {
  readonly worker: string;
  readonly pid: string;
  readonly version: string;
}

async function ask(port: string): Promise<Answer> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    get({ host: '127.0.0.1', port }, resolve).on('error', reject);
  });
  const [worker = '', pid = '', version = ''] = (await text(response)).split(' ');
  return { worker, pid, version };
}

/** One answer of each worker: asks until all have answered. */
async function answersOf(port: string): Promise<Answer[]> {
  const answers = new Map<string, Answer>();
  while (answers.size < WORKERS) {
    const answer = await ask(port);
    answers.set(answer.worker, answer);
  }
  return [...answers.values()];
}

/** The directory where `scripts/test-with-node.js` puts this version. */
function fetched(version: string): string {
  return fileURLToPath(new URL(`../../../node_modules/.cache/node/${version}/bin/node`, import.meta.url));
}

describe('an app of two workers', () => {
  for (const version of VERSIONS) {
    const node = fetched(version);
    it(
      `runs, is restarted and stops under Node ${version}`,
      { skip: existsSync(node) ? false : `npm run test:node -- ${version} fetches it` },
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const command = (name: string, ...args: readonly string[]): Program => {
          const [, words] = passfd(name, '--control', `${directory.path}/control`, ...args);
          return start(node, words);
        };
        const service = command('run', '--workers', String(WORKERS), app('version.js'));
        const [, port = ''] = await service.line(/^listening (\d+)$/);
        const before = await answersOf(port);
        for (const { version: answered } of before) {
          assert.ok(`${answered}.`.startsWith(`v${version}.`), answered);
        }

        assert.equal(await command('restart').exit, 0);
        const after = await answersOf(port);
        const pids = [...before, ...after].map(({ pid }) => pid);
        assert.equal(new Set(pids).size, 2 * WORKERS, 'the restart replaced each worker');

        assert.equal(await command('stop').exit, 0);
        assert.equal(await service.exit, 0);
      }),
    );
  }
});
