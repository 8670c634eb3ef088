// The parts of the source and what each may import: see docs/architecture.md.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join, posix, sep } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('../../../src/', import.meta.url));

/** Which parts a part may import. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  fd: [],
  multiprocessing: ['fd'],
  handoff: ['multiprocessing', 'fd'],
  dispatcher: ['handoff', 'multiprocessing', 'fd'],
  worker: ['handoff', 'multiprocessing', 'fd'],
  supervisor: ['handoff', 'fd'],
  systemd: ['fd'],
  service: ['supervisor', 'dispatcher', 'systemd', 'handoff', 'fd'],
  cli: ['service', 'supervisor', 'dispatcher', 'systemd', 'handoff', 'multiprocessing', 'fd'],
};

/** The packages that a part may import. */
const packagesOf: Readonly<Record<string, readonly string[]>> = {
  handoff: ['valibot'],
  dispatcher: ['valibot'],
  service: ['pino', 'pino-pretty', 'valibot'],
  cli: ['commander', 'valibot'],
};

interface Import {
  readonly from: string;
  readonly to: string;
}

function partOf(path: string): string {
  return path.split('/')[0] ?? '';
}

const files = readdirSync(source, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.ts'))
  .map((path) => path.split(sep).join('/'));

const imports: Import[] = files.flatMap((from) =>
  [...readFileSync(join(source, from), 'utf8').matchAll(/\bfrom '([^']+)'|\bimport\('([^']+)'\)/g)].map(
    ([, specifier = '', dynamic]) => ({ from, to: dynamic ?? specifier }),
  ),
);

const betweenParts = imports
  .filter(({ to }) => to.startsWith('.'))
  .map(({ from, to }) => ({ from, to: posix.join(posix.dirname(from), to) }))
  .filter(({ from, to }) => partOf(from) !== partOf(to));

describe('the parts under src', () => {
  it('are those that the architecture names', () => {
    assert.deepEqual([...new Set(files.map(partOf))].sort(), Object.keys(allowed).sort());
  });

  it('import only parts below them', () => {
    const upward = betweenParts.filter(({ from, to }) => !allowed[partOf(from)]?.includes(partOf(to)));
    assert.deepEqual(upward, []);
    assert.ok(betweenParts.length > 0);
  });

  it('import only the index of another part, or its internal.ts', () => {
    assert.deepEqual(
      betweenParts.filter(({ to }) => !/^[^/]+\/(index|internal)\.js$/.test(to)),
      [],
    );
  });

  it('import only the packages that were chosen for them, and leave loading the addon to one file', () => {
    const packages = imports.filter(({ to }) => !to.startsWith('.') && !to.startsWith('node:'));
    assert.deepEqual(
      packages.filter(({ from, to }) => packagesOf[partOf(from)]?.includes(to) !== true),
      [],
    );
    const loaders = files.filter((path) =>
      readFileSync(join(source, path), 'utf8').includes('createRequire('),
    );
    assert.deepEqual(loaders, ['fd/native.ts']);
  });
});
