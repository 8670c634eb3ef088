// The C programs of the benchmarks, compiled when they are needed and older than their sources.
import { execFile } from 'node:child_process';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** Where each compiled program is. */
export interface Programs {
  /** Asks, and checks and counts the answers. */
  readonly load: string;
  /** The least that a dispatcher can do: accepts, and hands off to workers. */
  readonly limit: string;
  /** The fastest server: what the load generator reaches when nobody holds it up. */
  readonly answer: string;
}

const SOURCES = {
  load: ['load.c', 'load_options.c', 'load_source.c', 'load_answer.c', 'load_count.c', 'program.c'],
  limit: ['limit.c', 'program.c'],
  answer: ['answer.c', 'program.c'],
} as const satisfies Record<keyof Programs, readonly string[]>;

const FLAGS = ['-std=c11', '-D_GNU_SOURCE', '-O2', '-Wall', '-Wextra', '-Werror'];

/** From `build/bench`, where this module is when it runs. */
const sources = fileURLToPath(new URL('../../bench/native/', import.meta.url));
const outputs = fileURLToPath(new URL('native/', import.meta.url));

/** Compiles what is missing or older than its sources. @param directory where the programs are */
export async function buildPrograms(directory = outputs): Promise<Programs> {
  await mkdir(directory, { recursive: true });
  const [load, limit, answer] = await Promise.all([
    build('load', directory),
    build('limit', directory),
    build('answer', directory),
  ]);
  return { load, limit, answer };
}

async function build(name: keyof Programs, directory: string): Promise<string> {
  const output = join(directory, name);
  const files = SOURCES[name].map((file) => join(sources, file));
  const headers = (await readdir(sources)).filter((file) => file.endsWith('.h'));
  const inputs = [...files, ...headers.map((file) => join(sources, file))];
  if (await isCurrent(output, inputs)) return output;

  // Another process may do the same: each writes a file of its own, and the last one stays.
  const draft = `${output}.${process.pid}`;
  try {
    await promisify(execFile)('cc', [...FLAGS, ...files, '-o', draft, '-lm']);
    await rename(draft, output);
  } catch (error) {
    throw new Error(`${name} did not compile; it needs Linux and a C compiler`, { cause: error });
  } finally {
    await rm(draft, { force: true });
  }
  return output;
}

async function isCurrent(output: string, inputs: readonly string[]): Promise<boolean> {
  const built = await modifiedAt(output);
  const changed = await Promise.all(inputs.map(modifiedAt));
  return changed.every((time) => time < built);
}

/** @returns milliseconds; -Infinity for a file that is not there */
async function modifiedAt(path: string): Promise<number> {
  try {
    return (await stat(path)).mtimeMs;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return -Infinity;
    throw error;
  }
}
