// Puts the addon that was compiled here where the published package carries it: `native/prebuilds/PLATFORM-ARCH/`.
// A Node-API addon runs on every later version of Node, so one binary for each platform and C library is enough.
import { copyFileSync, mkdirSync } from 'node:fs';
import process from 'node:process';

const native = new URL('../native/', import.meta.url);
const directory = new URL(`prebuilds/${process.platform}-${process.arch}/`, native);

mkdirSync(directory, { recursive: true });
copyFileSync(
  new URL('build/Release/passfd.node', native),
  new URL(`passfd.napi${libcTag()}.node`, directory),
);

/** node-gyp-build picks by this tag on Linux. */
function libcTag() {
  if (process.platform !== 'linux') return '';
  const { header } = /** @type {{ header: { glibcVersionRuntime?: string } }} */ (process.report.getReport());
  return header.glibcVersionRuntime === undefined ? '.musl' : '.glibc';
}
