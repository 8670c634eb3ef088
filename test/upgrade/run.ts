// Upgrades from an earlier commit under load: `npm run test:upgrade -- REF`. Builds that commit once, in build/upgrade.
import { spawnSync, type SpawnSyncOptions } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const cache = join(root, 'build/upgrade');
const tests = fileURLToPath(new URL('upgrades.js', import.meta.url));

const [ref, ...others] = process.argv.slice(2);
if (ref === undefined || ref.startsWith('-') || others.length > 0) {
  process.stderr.write(
    'Usage: npm run test:upgrade -- REF, with a commit, a tag or a branch to upgrade from\n',
  );
  process.exitCode = 2;
} else {
  process.exitCode = main(ref);
}

function main(ref: string): number {
  const { status, stdout } = run('git', ['rev-parse', '--verify', '--quiet', `${ref}^{commit}`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (status !== 0) {
    process.stderr.write(`There is no commit ${ref} in this clone; a shallow clone has only the newest.\n`);
    return 2;
  }
  const commit = String(stdout).trim();
  const earlier = join(cache, commit);
  if (!existsSync(earlier) && !build(commit, earlier)) {
    process.stderr.write(`Commit ${commit} could not be built; the reason is above.\n`);
    return 1;
  }
  const env = { ...process.env, PASSFD_EARLIER: earlier };
  return run(process.execPath, ['--test-reporter=spec', tests], { env }).status ?? 1;
}

/** @returns whether it is there now */
function build(commit: string, target: string): boolean {
  mkdirSync(cache, { recursive: true });
  const workshop = mkdtempSync(join(cache, 'building-'));
  const isDone = (command: string, ...args: string[]): boolean =>
    run(command, args, { cwd: workshop }).status === 0;
  try {
    const archive = join(workshop, 'source.tar');
    if (run('git', ['archive', '--output', archive, commit]).status !== 0) return false;
    if (!isDone('tar', 'xf', archive)) return false;
    rmSync(archive);
    if (hasSamePackages(workshop)) symlinkSync(join(root, 'node_modules'), join(workshop, 'node_modules'));
    else if (!isDone('npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund')) return false;
    if (!isDone('npm', 'run', 'build')) return false;
    // In one step, so that what is there is whole.
    renameSync(workshop, target);
    return true;
  } finally {
    rmSync(workshop, { recursive: true, force: true });
  }
}

function hasSamePackages(directory: string): boolean {
  const lock = (place: string): string => readFileSync(join(place, 'package-lock.json'), 'utf8');
  return lock(directory) === lock(root);
}

function run(
  command: string,
  args: readonly string[],
  options: SpawnSyncOptions = {},
): ReturnType<typeof spawnSync> {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (result.error) throw result.error;
  return result;
}
