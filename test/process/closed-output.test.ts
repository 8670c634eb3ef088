// Whoever reads the output of a command may go at any time, as `head` does: that ends no service, and is no failure.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd } from '../support/passfd.js';
import { withPrograms, type Program, type Start } from '../support/program.js';

/** Takes lines of a pipe up to the one that says where the app listens, and passes that on when the pipe is closed. */
const UNTIL_IT_LISTENS =
  'while read -r line; do case "$line" in *"listening "*) break;; esac; done; exec <&-; echo "$line"';

/** Takes none, and says when it is closed. */
const NO_LINE = 'exec <&-; echo closed';

/** Starts a command when it is told a line, with a pipe as its output. How it ends is told on standard error. */
function startPiped(start: Start, reader: string, [program, args]: [string, string[]]): Program {
  const script = `{ read -r _; "$@"; echo "ended $?" >&2; } | { ${reader}; }`;
  return start('/bin/sh', ['-c', script, 'sh', program, ...args], { ownGroup: true });
}

/** The app writes a line for each request, which nobody gets. */
async function haveItWrite(port: string): Promise<void> {
  for (let requests = 0; requests < 2; requests++) await fetch(`http://127.0.0.1:${port}/error`);
}

describe('a service whose output nobody reads any more', () => {
  it(
    'goes on, and ends in good order when it is stopped',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const run = passfd('run', '--workers', '1', '--prefix-output', '--control', control, app('throws.js'));
      const program = startPiped(start, UNTIL_IT_LISTENS, run);
      program.say('go');
      const [, port = ''] = await program.line(/^\[1\] listening (\d+)$/);
      await haveItWrite(port);
      assert.equal(await start(...passfd('stop', '--control', control)).exit, 0);
      await program.exit;
      assert.match(await program.stderr, /worker draining[^]*"stopped"[^]*\nended 0\n$/);
    }),
  );

  it(
    'does so, too, when that was its log',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const [node, args] = passfd('run', '--workers', '1', '--control', control, app('throws.js'));
      const run: [string, string[]] = ['/bin/sh', ['-c', 'exec "$@" 2>&1', 'sh', node, ...args]];
      const program = startPiped(start, UNTIL_IT_LISTENS, run);
      program.say('go');
      const [, port = ''] = await program.line(/^listening (\d+)$/);
      await haveItWrite(port);
      assert.equal(await start(...passfd('stop', '--control', control)).exit, 0);
      await program.exit;
      assert.equal(await program.stderr, 'ended 0\n');
    }),
  );
});

describe('an app whose output nobody reads any more, under --prefix-output', () => {
  it(
    'goes on in the same process, and the log says once what is lost',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const run = passfd(
        'run',
        '--workers',
        '1',
        '--prefix-output',
        '--control',
        control,
        app('says-its-pid.js'),
      );
      const program = startPiped(start, UNTIL_IT_LISTENS, run);
      program.say('go');
      const [, port = ''] = await program.line(/^\[1\] listening (\d+)$/);
      const pids = new Set<string>();
      for (let requests = 0; requests < 20; requests++) {
        const response = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } });
        pids.add(await response.text());
      }
      await program.errorLine(/output of the process is lost/);
      assert.equal(pids.size, 1);
      assert.equal(await start(...passfd('stop', '--control', control)).exit, 0);
      await program.exit;
      const log = await program.stderr;
      assert.equal(log.split('output of the process is lost').length - 1, 1);
      assert.doesNotMatch(log, /process exited with code 1/);
      assert.match(log, /\nended 0\n$/);
    }),
  );
});

describe('a command whose answer nobody reads', () => {
  it(
    'has answered',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const at = ['--control', `${directory.path}/control`];
      await start(...passfd('serve', '--listen', '127.0.0.1:0', ...at)).errorLine(/"listening"/);
      for (const command of [['status', ...at], ['help', 'run'], ['--version']]) {
        const program = startPiped(start, NO_LINE, passfd(...command));
        await program.line(/^closed$/);
        program.say('go');
        await program.exit;
        assert.equal(await program.stderr, 'ended 0\n', command.join(' '));
      }
    }),
  );
});
