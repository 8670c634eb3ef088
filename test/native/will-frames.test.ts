// The last will encodes frames of the hand-off protocol in C: the same bytes as the encoders in TypeScript.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { encodeHandoff, encodeHandoffAgain, encodeJson } from '../../src/handoff/index.js';
import { temporaryDirectory } from '../support/files.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const [compiler = 'cc', ...flags] = (process.env['CC'] ?? 'cc').split(' ');

/** The messages of the fixture: position, listener and count. */
const messages = [
  [1, 0, 1],
  [Number.MAX_SAFE_INTEGER, 65_535, 252],
  [0x01_02_03_04_05, 0x06_07, 8],
] as const;

describe('the frames of the last will', () => {
  it('are the bytes that the encoders in TypeScript make', async (context) => {
    await using directory = await temporaryDirectory();
    const binary = join(directory.path, 'will_frames');
    const source = join(root, 'test/native/fixtures/will_frames.c');
    const compiled = spawnSync(
      compiler,
      [...flags, '-std=c11', '-Wall', '-Wextra', '-Werror', '-I', join(root, 'native'), source, '-o', binary],
      { encoding: 'utf8' },
    );
    if (compiled.error) {
      context.skip(`no C compiler: ${compiled.error.message}`);
      return;
    }
    assert.equal(compiled.status, 0, compiled.stderr);
    const expected = [
      ...messages.flatMap(([position, listener, count]) => [
        encodeHandoff(listener, count),
        encodeHandoffAgain(position, listener, count),
      ]),
      encodeJson({ type: 'orphaned' }),
    ].map((frame) => frame.toString('hex'));
    const { stdout } = spawnSync(binary, { encoding: 'utf8' });
    assert.deepEqual(stdout.trimEnd().split('\n'), expected);
  });
});
