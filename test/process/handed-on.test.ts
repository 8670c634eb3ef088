// A child that outlives the supervisor that started it: it is watched and ended by the next one, and no byte of what it
// writes is lost.
import assert from 'node:assert/strict';
import { mkdir, rename, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { socketPair, type Descriptor, type Message, type StreamSocket } from '../../src/fd/index.js';
import { temporaryDirectory } from '../support/files.js';
import { withPrograms, type Program, type ProgramOptions, type Start } from '../support/program.js';

const fixture = fileURLToPath(new URL('fixtures/generation.js', import.meta.url));

/** Writes as fast as it is read, until there is a file with the name that it gets. */
const WRITER =
  'echo "pid $$"; i=0; while ! [ -e "$0" ]; do echo "line $i"; i=$((i+1)); done; echo "wrote $i"; exec sleep 100';

const IDLE = 'echo "idle $$"; exec sleep 100';

class Generation {
  readonly program: Program;
  readonly #channel: StreamSocket;

  /** @param script what its child runs, with its arguments from `$0` on */
  constructor(start: Start, script: readonly string[], options: ProgramOptions = {}) {
    const [channel, theirs] = socketPair();
    const command = [fixture, '/bin/sh', '-c', ...script];
    this.program = start(process.execPath, command, { ...options, descriptors: [theirs.fd] });
    theirs.destroy();
    this.#channel = channel;
  }

  /** Resolves when that is done, with what the generation answers. */
  async do(what: string | Uint8Array, descriptors: readonly Descriptor[] = []): Promise<Message> {
    await this.#channel.send(Buffer.from(what), descriptors);
    const answer = await this.#channel.receive();
    if (!answer) assert.fail(await this.program.stderr);
    return answer;
  }

  async finish(): Promise<void> {
    assert.deepEqual([await this.program.exit, await this.program.stderr], [0, '']);
    this.#channel.destroy();
  }
}

/** Holds that every line of the writer came once and in its order; its last line is awaited from `last`. */
async function expectAll(last: Program, ...programs: readonly Program[]): Promise<void> {
  const [, count] = await last.line(/^\[1\] wrote (\d+)$/);
  const lines = programs.flatMap((program) => program.lines).filter((line) => line.startsWith('[1] line '));
  assert.deepEqual(
    lines,
    Array.from({ length: Number(count) }, (_, index) => `[1] line ${index}`),
  );
}

describe('a child that is handed on', () => {
  it(
    'is heard to the last byte by one supervisor after the other, outlives the first, and is ended by the second',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const stopFile = join(directory.path, 'stop');
      const first = new Generation(start, [WRITER, stopFile]);
      const second = new Generation(start, [WRITER, stopFile]);
      await first.do('start');
      const [, pid = ''] = await first.program.line(/^\[1\] pid (\d+)$/);
      await first.program.line(/line 100$/);
      {
        using told = await first.do('pause');
        await second.do(told.bytes, told.descriptors);
      }
      await first.do('release');
      await first.finish();
      await second.program.line(/line \d+00$/);
      await writeFile(stopFile, '');
      await expectAll(second.program, first.program, second.program);
      assert.ok(process.kill(Number(pid), 0));
      await second.do('stop');
      await second.program.line(/^it exited with an unknown code$/);
      await second.finish();
    }),
  );

  it(
    'stays with the first one when the handover fails, as if nothing had happened',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const stopFile = join(directory.path, 'stop');
      const first = new Generation(start, [WRITER, stopFile]);
      await first.do('start');
      await first.program.line(/line 100$/);
      (await first.do('pause')).close();
      await first.do('resume');
      await writeFile(stopFile, '');
      await expectAll(first.program, first.program);
      await first.do('stop');
      await first.program.line(/^it was killed by SIGTERM$/);
      await first.finish();
    }),
  );

  it(
    'is started again by the second one when it dies',
    withPrograms(async (start) => {
      const first = new Generation(start, [IDLE]);
      const second = new Generation(start, [IDLE]);
      await first.do('start');
      const [, pid = ''] = await first.program.line(/idle (\d+)/);
      {
        using told = await first.do('pause');
        await second.do(told.bytes, told.descriptors);
      }
      await first.do('release');
      await first.finish();
      process.kill(Number(pid), 'SIGKILL');
      const [, next] = await second.program.line(/idle (\d+)/);
      assert.notEqual(next, pid);
      await second.do('stop');
      await second.finish();
    }),
  );

  it(
    'is not taken for another process that has its number now',
    withPrograms(async (start) => {
      const first = new Generation(start, [IDLE]);
      const second = new Generation(start, [IDLE]);
      await first.do('start');
      const [, pid = ''] = await first.program.line(/idle (\d+)/);
      {
        using told = await first.do('pause');
        const other = told.bytes.toString().replace(/"identity":"\d+"/, '"identity":"1"');
        await second.do(other, told.descriptors);
      }
      await second.program.line(/idle (\d+)/);
      await second.do('stop');
      assert.ok(process.kill(Number(pid), 0), 'and that has got no signal');
      await first.do('stop');
      await first.finish();
      await second.finish();
    }),
  );
});

describe('a child that is started again', () => {
  it(
    'finds itself where the link leads now by which its supervisor was started',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const current = join(directory.path, 'current');
      for (const name of ['first', 'second']) await mkdir(join(directory.path, name));
      await symlink('first', current);
      const generation = new Generation(start, ['echo "$$ $(pwd -P)"; exec sleep 100'], {
        cwd: current,
        env: { PWD: current },
      });
      await generation.do('start');
      const [, pid = ''] = await generation.program.line(/^\[1\] (\d+) .*\/first$/);
      await symlink('second', `${current}.new`);
      await rename(`${current}.new`, current);
      process.kill(Number(pid), 'SIGKILL');
      await generation.program.line(/^\[1\] \d+ .*\/second$/);
      await generation.do('stop');
      await generation.finish();
    }),
  );
});
