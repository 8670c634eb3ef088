// Compiles the addon of a source checkout, against the headers that Node was installed with where there are any.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const native = fileURLToPath(new URL('../native', import.meta.url));
const nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');

// Node's own archives and most packages put the headers beside the binary; using them saves the download.
const prefix = dirname(dirname(process.execPath));
const headers = existsSync(join(prefix, 'include/node/uv.h')) ? [`--nodedir=${prefix}`] : [];

const { status } = spawnSync(
  process.execPath,
  [nodeGyp, 'configure', 'build', '--loglevel=warn', ...headers],
  {
    cwd: native,
    stdio: ['ignore', 'ignore', 'inherit'],
  },
);
if (status !== 0) {
  process.stderr.write(
    'The addon did not compile. It needs a C compiler, make and Python 3; the reason stands above.\n',
  );
}
process.exitCode = status ?? 1;
