// The key, with CPython at either end: the right one lets in, a wrong one does not, and harms nobody else.
import assert from 'node:assert/strict';
import { it } from 'node:test';

import { Client, Listener } from '../../src/multiprocessing/index.js';
import { failsWith } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { describeWithEachPython } from '../support/peers.js';
import { withPrograms } from '../support/program.js';

const CLIENT = `
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
try:
    with Client(sys.argv[1], authkey=sys.argv[2].encode()) as connection:
        connection.send('let in')
except AuthenticationError as error:
    print('AuthenticationError')
`;

const LISTENER = `
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Listener
with Listener(sys.argv[1], authkey=b'right') as listener:
    print('LISTENING', flush=True)
    for _ in range(2):
        try:
            with listener.accept() as connection:
                print(connection.recv(), flush=True)
        except AuthenticationError:
            print('AuthenticationError', flush=True)
`;

describeWithEachPython('a Python client of our listener', (python) => {
  it(
    'is let in with the key, and told AuthenticationError without it',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/s`;
      await using listener = await Listener(path, { authkey: 'right' });
      const refused: string[] = [];
      listener.on('refused', ({ code }) => refused.push(code));
      const accepted = listener.accept();
      const wrong = start(python.path, ['-c', CLIENT, path, 'wrong']);
      await wrong.line(/^AuthenticationError$/);
      assert.equal(await wrong.exit, 0);
      const right = start(python.path, ['-c', CLIENT, path, 'right']);
      using connection = await accepted;
      assert.equal(await connection.recv(), 'let in');
      assert.equal(await right.exit, 0);
      assert.deepEqual(refused, ['ERR_AUTHENTICATION']);
    }),
  );
});

describeWithEachPython('our client of a Python listener', (python) => {
  it(
    'is let in with the key, and told ERR_AUTHENTICATION without it',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/s`;
      const listener = start(python.path, ['-c', LISTENER, path]);
      await listener.line(/^LISTENING$/);
      await assert.rejects(Client(path, { authkey: 'wrong' }), failsWith('ERR_AUTHENTICATION'));
      await listener.line(/^AuthenticationError$/);
      using connection = await Client(path, { authkey: 'right' });
      await connection.send('let in');
      await listener.line(/^let in$/);
      assert.equal(await listener.exit, 0);
    }),
  );
});
