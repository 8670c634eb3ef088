// Uncaught exceptions: the handler of the app gets them as without passfd, and the log has the one that ends the app.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd } from '../support/passfd.js';
import { withPrograms, type Program } from '../support/program.js';

interface Scene {
  readonly program: Program;
  /** Has the app do what the path names. */
  readonly ask: (path: string) => Promise<void>;
}

function withScene(body: (scene: Scene) => Promise<void>): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const control = `${directory.path}/control`;
    const program = start(...passfd('run', '--workers', '1', '--control', control, app('throws.js')));
    const [, port = ''] = await program.line(/^listening (\d+)$/);
    await body({
      program,
      ask: async (path) => {
        await fetch(`http://127.0.0.1:${port}${path}`, { headers: { connection: 'close' } });
      },
    });
  });
}

describe('an app that handles uncaught exceptions', () => {
  for (const [what, path, seen] of [
    ['an error', '/error', /^handled Error: an ordinary error$/],
    ['a text', '/text', /^handled a text$/],
    ['nothing at all', '/null', /^handled null$/],
  ] as const) {
    it(
      `gets ${what} that was thrown, and goes on`,
      withScene(async ({ program, ask }) => {
        await ask(path);
        await program.line(seen);
        await ask('/');
        program.signal('SIGTERM');
        assert.equal(await program.exit, 0);
      }),
    );
  }
});

describe('the log of an app that ends', () => {
  it(
    'has what it threw, when that is why it ended',
    withScene(async ({ program, ask }) => {
      await ask('/fatal');
      assert.match((await ending(program, 4)) ?? '', /Error: a fatal error\n +at /);
    }),
  );

  it(
    'does not have what the app had handled before',
    withScene(async ({ program, ask }) => {
      await ask('/error');
      await program.line(/^handled/);
      await ask('/exit');
      assert.equal(await ending(program, 3), undefined);
    }),
  );
});

/** @returns the last words in the log */
async function ending(program: Program, code: number): Promise<string | undefined> {
  const [line = ''] = await program.errorLine(new RegExp(`.*process exited with code ${code}.*`));
  return (JSON.parse(line) as { lastWords?: string }).lastWords;
}
