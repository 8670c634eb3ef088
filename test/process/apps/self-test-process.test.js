// Ordinary tests of what an ordinary app finds in its process before it has done anything. They know nothing of passfd.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';

test('there is no global but those of Node', () => {
  const script = 'process.stdout.write(JSON.stringify(Reflect.ownKeys(globalThis).map(String)))';
  const bare = execFileSync(process.execPath, ['--input-type=module', '--eval', script], {
    encoding: 'utf8',
  });
  assert.deepEqual(
    Reflect.ownKeys(globalThis)
      .map(String)
      .filter((name) => !JSON.parse(bare).includes(name)),
    [],
  );
});
