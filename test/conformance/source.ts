// Node's own tests: fetched once, and never part of this project.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const VERSION = '20.19.2';

/** What Debian built its Node from; Node's own archive of this version has the same tests. */
const ARCHIVE = `https://deb.debian.org/debian/pool/main/n/nodejs/nodejs_${VERSION}+dfsg.orig.tar.xz`;
const SHA256 = '5e5559381ad031d245a8efa403458abbb73755f74c3e6380f185a4dd342b7949';

const directory = fileURLToPath(new URL(`../../node-${VERSION}/`, import.meta.url));

const IS_TEST = /^test-(?!debugger|inspector).*\.m?js$/;
/** Of the modules whose servers listen by way of a dispatcher. */
const IS_ABOUT_SERVERS = /^test-(?:net|tls|http|https|http2)-/;

/** The options stand near the top (test/common/index.js). */
const FLAGS_WITHIN_LENGTH = 1500;

export interface NodeTest {
  /** As in `parallel/test-net-listening.js`. */
  readonly name: string;
  readonly path: string;
  /** The options of Node that it asks for. */
  readonly flags: readonly string[];
}

/** @throws when they are not here yet, and cannot be fetched */
export async function nodeTests(): Promise<NodeTest[]> {
  if (!existsSync(directory)) unpack(await fetchArchive());
  return ['parallel', 'sequential'].flatMap((folder) =>
    readdirSync(join(directory, 'test', folder))
      .filter((file) => IS_TEST.test(file))
      .sort()
      .flatMap((file) => {
        const path = join(directory, 'test', folder, file);
        const text = readFileSync(path, 'utf8');
        if (!IS_ABOUT_SERVERS.test(file) && !text.includes('.listen(')) return [];
        return [{ name: `${folder}/${file}`, path, flags: flagsIn(text) }];
      }),
  );
}

async function fetchArchive(): Promise<Buffer> {
  const response = await fetch(ARCHIVE).catch((cause: unknown) => {
    throw new Error(`${ARCHIVE} cannot be reached`, { cause });
  });
  if (!response.ok) {
    throw new Error(`${ARCHIVE} cannot be fetched: ${response.status} ${response.statusText}`);
  }
  const archive = Buffer.from(await response.arrayBuffer());
  const found = createHash('sha256').update(archive).digest('hex');
  if (found !== SHA256) throw new Error(`${ARCHIVE} is not what it was: its SHA-256 is ${found}`);
  return archive;
}

/** Whole or not at all. */
function unpack(archive: Buffer): void {
  const draft = join(directory, '..', 'node-draft');
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(draft);
  const args = ['--extract', '--xz', '--strip-components=1', `--directory=${draft}`, `node-v${VERSION}/test`];
  const { status, stderr, error } = spawnSync('tar', args, { input: archive, encoding: 'utf8' });
  if (error) throw error;
  if (status !== 0) throw new Error(`The archive could not be unpacked: ${stderr}`);
  // Else the nearest one is this project's, by which each file is an ES module.
  writeFileSync(join(draft, 'package.json'), '{}');
  renameSync(draft, directory);
}

function flagsIn(text: string): string[] {
  const [, flags = ''] = /\/\/ Flags:\s+(--.*)/.exec(text.slice(0, FLAGS_WITHIN_LENGTH)) ?? [];
  return flags.split(/\s+/).filter((flag) => flag !== '');
}
