// The key: from a file or from the environment.
import assert from 'node:assert/strict';
import { chmod, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { keyIn, readAuthkey } from '../../../src/service/authkey.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';

function unexpected(message: string): never {
  throw new Error(message);
}

describe('a key file', () => {
  it('may end with a newline, which is not part of the key', () => {
    const keys = ['key', 'key\n', 'key\r\n', 'key\n\n'].map((text) => keyIn(Buffer.from(text), 'k'));
    assert.deepEqual(keys, ['key', 'key', 'key', 'key\n']);
  });

  it('holds a key', () => {
    assert.throws(() => keyIn(Buffer.from('\n'), 'k'), failsWith('ERR_AUTHENTICATION', /no key in k/));
  });

  it('holds text: workers get it in their environment', () => {
    for (const bytes of [Buffer.from('a\0b'), Buffer.of(0xff, 0xfe), Buffer.alloc(4097, 'k')]) {
      assert.throws(() => keyIn(bytes, 'k'), failsWith('ERR_AUTHENTICATION', /not text/));
    }
  });

  it(
    'is read, with a warning when other users can read it',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const authkeyFile = `${directory.path}/key`;
      await writeFile(authkeyFile, 'secret\n');
      const warnings: string[] = [];
      const read = (): Promise<string | undefined> =>
        readAuthkey({ authkeyFile }, (message) => warnings.push(message));
      await chmod(authkeyFile, 0o600);
      assert.equal(await read(), 'secret');
      assert.deepEqual(warnings, []);
      await chmod(authkeyFile, 0o640);
      assert.equal(await read(), 'secret');
      assert.deepEqual(warnings, [
        `Others can read the key in ${authkeyFile}; run: chmod 600 ${authkeyFile}`,
      ]);
    }),
  );

  it(
    'that is missing is named',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const authkeyFile = `${directory.path}/none`;
      await assert.rejects(
        readAuthkey({ authkeyFile }, unexpected),
        failsWith('ERR_AUTHENTICATION', /none: ENOENT/),
      );
    }),
  );
});

describe('PASSFD_AUTHKEY', () => {
  let before: string | undefined;
  beforeEach(() => {
    before = process.env['PASSFD_AUTHKEY'];
  });
  afterEach(() => {
    if (before === undefined) delete process.env['PASSFD_AUTHKEY'];
    else process.env['PASSFD_AUTHKEY'] = before;
  });

  it('is the key when no file is named', async () => {
    process.env['PASSFD_AUTHKEY'] = 'secret';
    assert.equal(await readAuthkey({}, unexpected), 'secret');
  });

  it('is ignored when it is empty', async () => {
    process.env['PASSFD_AUTHKEY'] = '';
    assert.equal(await readAuthkey({}, unexpected), undefined);
    delete process.env['PASSFD_AUTHKEY'];
    assert.equal(await readAuthkey({}, unexpected), undefined);
  });
});
