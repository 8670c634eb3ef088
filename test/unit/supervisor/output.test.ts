// The output of a child, with a prefix before each line. No byte is lost when another process goes on reading.
import assert from 'node:assert/strict';
import { PassThrough, Writable } from 'node:stream';
import { describe, it } from 'node:test';

import { socketPair, type StreamSocket } from '../../../src/fd/index.js';
import { PrefixedOutput, type OutputEnds } from '../../../src/supervisor/output.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { openFile } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';

class Stage {
  readonly #ends: OutputEnds;
  /** The child's end. */
  readonly stdout: StreamSocket;
  readonly stderr: StreamSocket;
  readonly targets = { stdout: new PassThrough(), stderr: new PassThrough() };
  readonly output: PrefixedOutput;

  constructor() {
    const [out, theirOut] = socketPair();
    const [err, theirErr] = socketPair();
    this.#ends = {
      stdout: { descriptor: out.release(), partial: Buffer.alloc(0) },
      stderr: { descriptor: err.release(), partial: Buffer.alloc(0) },
    };
    this.stdout = theirOut;
    this.stderr = theirErr;
    this.output = new PrefixedOutput(this.#ends, '[1] ', undefined, this.targets);
  }

  /** The output since the last call. */
  async said(): Promise<[stdout: string, stderr: string]> {
    await turns();
    const { stdout, stderr } = this.targets;
    return [take(stdout), take(stderr)];
  }

  /** The child ends. */
  async end(): Promise<void> {
    this.stdout.destroy();
    this.stderr.destroy();
    await this.output.ended;
  }
}

/** Everything that is buffered: since Node 26, one `read` returns one chunk only. */
function take(stream: PassThrough): string {
  const chunks: unknown[] = [];
  for (let chunk: unknown; (chunk = stream.read()) !== null;) chunks.push(chunk);
  return chunks.join('');
}

function onStage(body: (stage: Stage) => Promise<void>): () => Promise<void> {
  return keepsDescriptors(async () => {
    const stage = new Stage();
    await body(stage);
    await stage.end();
  });
}

describe('the output of a child', () => {
  it(
    'is written line by line to the same stream, and ends with the child',
    onStage(async (stage) => {
      await stage.stdout.send(Buffer.from('one\ntwo'));
      await stage.stderr.send(Buffer.from('bad\n'));
      assert.deepEqual(await stage.said(), ['[1] one\n', '[1] bad\n']);
      await stage.end();
      assert.deepEqual(await stage.said(), ['[1] two\n', '']);
    }),
  );

  it(
    'loses descriptors that a child sends with it, and nothing else',
    onStage(async (stage) => {
      using file = openFile('file');
      await stage.stdout.send(Buffer.from('one\n'), [file]);
      assert.deepEqual(await stage.said(), ['[1] one\n', '']);
    }),
  );

  it(
    'is dropped while it cannot be written, which is reported once, and the child goes on',
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      const chunks: string[] = [];
      let isFull = true;
      const disk = new Writable({
        // Like the output of a process, which stays open after an error.
        destroy(this: Writable & { _undestroy?: () => void }, error, callback) {
          callback(error);
          this._undestroy?.();
        },
        write: (chunk, _encoding, callback) => {
          if (!isFull) chunks.push(String(chunk));
          callback(isFull ? new Error('ENOSPC') : null);
        },
      });
      const told: string[] = [];
      const ends = { stdout: { descriptor: here.release(), partial: Buffer.alloc(0) } };
      const onLost = ({ message }: Error): number => told.push(message);
      const output = new PrefixedOutput(ends, '[1] ', onLost, { stdout: disk, stderr: disk });
      for (const line of ['one\n', 'two\n']) {
        await there.send(Buffer.from(line));
        await turns();
      }
      isFull = false;
      await there.send(Buffer.from('three\n'));
      there.destroy();
      await output.ended;
      assert.deepEqual([told, chunks.join('')], [['ENOSPC'], '[1] three\n']);
    }),
  );

  it(
    'is closed when it cannot be read, and counts as ended',
    keepsDescriptors(async () => {
      const descriptor = openFile('no socket');
      const output = new PrefixedOutput({ stdout: { descriptor, partial: Buffer.alloc(0) } }, '[1] ');
      await output.ended;
      assert.equal(descriptor.closed, true);
    }),
  );
});

describe('frozen output', () => {
  it(
    'stays in the kernel, and is written after it thaws',
    onStage(async (stage) => {
      await stage.stdout.send(Buffer.from('one\ntw'));
      await stage.said();
      await stage.output.freeze();
      await stage.stdout.send(Buffer.from('o\nthree\n'));
      assert.deepEqual(await stage.said(), ['', '']);
      stage.output.thaw();
      assert.deepEqual(await stage.said(), ['[1] two\n[1] three\n', '']);
    }),
  );

  it(
    'is frozen when everything that was read is written; thawed before that, it goes on in order',
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      const chunks: string[] = [];
      const written: (() => void)[] = [];
      const slow = new Writable({
        write: (chunk, _encoding, callback) => {
          chunks.push(String(chunk));
          written.push(callback);
        },
      });
      const ends = { stdout: { descriptor: here.release(), partial: Buffer.alloc(0) } };
      const output = new PrefixedOutput(ends, '', undefined, { stdout: slow, stderr: slow });
      await there.send(Buffer.from('one\n'));
      await turns();
      const frozen = output.freeze();
      assert.equal(await isPending(frozen), true);
      await there.send(Buffer.from('two\n'));
      output.thaw();
      await turns();
      assert.deepEqual(chunks, ['one\n']);
      written.shift()?.();
      await turns();
      assert.deepEqual(chunks, ['one\n', 'two\n']);
      written.shift()?.();
      there.destroy();
      await turns();
      written.shift()?.();
      await output.ended;
    }),
  );

  it(
    'ends after it thaws, when it has ended meanwhile',
    onStage(async (stage) => {
      await stage.output.freeze();
      await stage.stdout.send(Buffer.from('last'));
      stage.stdout.destroy();
      stage.output.thaw();
      assert.deepEqual(await stage.said(), ['[1] last\n', '']);
    }),
  );
});

describe('output that is handed over', () => {
  it(
    'goes on at the byte where it was frozen, also in the middle of a line',
    onStage(async (stage) => {
      await stage.stdout.send(Buffer.from('one\ntw'));
      assert.deepEqual(await stage.said(), ['[1] one\n', '']);
      await stage.output.freeze();
      await stage.stdout.send(Buffer.from('o\nth'));
      const next = new PrefixedOutput(stage.output.duplicate(), '[1] ', undefined, stage.targets);
      await stage.output.disown();
      assert.deepEqual(await stage.said(), ['[1] two\n', '']);
      await stage.stdout.send(Buffer.from('ree\n'));
      await stage.stderr.send(Buffer.from('bad\n'));
      assert.deepEqual(await stage.said(), ['[1] three\n', '[1] bad\n']);
      await stage.end();
      await next.ended;
    }),
  );

  it(
    'goes on here when the other process has not begun',
    onStage(async (stage) => {
      await stage.stdout.send(Buffer.from('one\ntw'));
      await stage.said();
      await stage.output.freeze();
      const { stdout, stderr } = stage.output.duplicate();
      stdout?.descriptor.close();
      stderr?.descriptor.close();
      await stage.stdout.send(Buffer.from('o\n'));
      stage.output.thaw();
      assert.deepEqual(await stage.said(), ['[1] two\n', '']);
    }),
  );

  it(
    'is left out when it has ended',
    onStage(async (stage) => {
      stage.stdout.destroy();
      await stage.said();
      await stage.output.freeze();
      const ends = stage.output.duplicate();
      assert.deepEqual(Object.keys(ends), ['stderr']);
      ends.stderr?.descriptor.close();
      stage.output.thaw();
    }),
  );
});

describe('output that is disowned and was not handed over', () => {
  it(
    'is written as far as the kernel has it, with an unfinished line',
    onStage(async (stage) => {
      await stage.output.freeze();
      await stage.stdout.send(Buffer.from('one\n'));
      await stage.stdout.send(Buffer.from('two'));
      await stage.output.disown();
      assert.deepEqual(await stage.said(), ['[1] one\n[1] two\n', '']);
      assert.equal(await stage.stdout.receive(), null, 'nobody holds the other end');
    }),
  );

  it(
    'is written when it has ended, too',
    onStage(async (stage) => {
      await stage.output.freeze();
      await stage.stdout.send(Buffer.from('one\ntwo'));
      stage.stdout.destroy();
      await stage.output.disown();
      assert.deepEqual(await stage.said(), ['[1] one\n[1] two\n', '']);
    }),
  );
});
