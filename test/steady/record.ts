// The record: which runs of which test file are done, so that an interrupted command goes on where it was.
import { createHash } from 'node:crypto';
import { appendFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** One run of a file. */
export interface Run {
  readonly file: string;
  /** Where the output of a run that failed is. */
  readonly failure?: string;
}

export class Record {
  readonly #directory: string;
  readonly #path: string;
  readonly #version: string;
  readonly #runs: Run[];
  /** How many runs of other code were found and dropped. */
  readonly dropped: number;

  /** @param version of the code; what another version has done does not count */
  constructor(directory: string, version: string) {
    this.#directory = directory;
    this.#path = join(directory, 'record.jsonl');
    this.#version = version;
    const { version: found, runs } = read(this.#path);
    const isSame = found === version;
    this.#runs = isSame ? runs : [];
    this.dropped = isSame ? 0 : runs.length;
    if (!isSame) rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory, { recursive: true });
    this.#write();
  }

  of(file: string): Run[] {
    return this.#runs.filter((run) => run.file === file);
  }

  passed(file: string): void {
    this.#add({ file });
  }

  /** @returns the path at which the output is kept */
  failed(file: string, output: string): string {
    const round = this.of(file).length + 1;
    const failure = join(this.#directory, `${file.replaceAll('/', '-')}.${round}.txt`);
    writeFileSync(failure, output);
    this.#add({ file, failure });
    return failure;
  }

  /** All runs of these files are done: the next command begins with them anew. */
  finish(files: readonly string[]): void {
    const left = this.#runs.filter(({ file }) => !files.includes(file));
    this.#runs.splice(0, this.#runs.length, ...left);
    this.#write();
  }

  #add(run: Run): void {
    this.#runs.push(run);
    appendFileSync(this.#path, `${JSON.stringify(run)}\n`);
  }

  #write(): void {
    const lines = [{ version: this.#version }, ...this.#runs].map((line) => `${JSON.stringify(line)}\n`);
    writeFileSync(this.#path, lines.join(''));
  }
}

/** A hash of the files below these directories whose names end in one of these ways, and of the version of Node. */
export function codeVersion(directories: readonly string[], endings: readonly string[]): string {
  const hash = createHash('sha256').update(process.version);
  for (const directory of directories) {
    const paths = readdirSync(directory, { recursive: true, encoding: 'utf8' }).sort();
    for (const path of paths.filter((path) => endings.some((ending) => path.endsWith(ending)))) {
      hash.update(`\0${path}\0`).update(readFileSync(join(directory, path)));
    }
  }
  return hash.digest('hex');
}

/** A last line that was not written as a whole is no run. */
function read(path: string): { version: string | undefined; runs: Run[] } {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return { version: undefined, runs: [] };
  }
  const [first = '', ...lines] = text.split('\n').slice(0, -1);
  const { version } = JSON.parse(first || '{}') as { version?: string };
  return { version, runs: lines.map((line) => JSON.parse(line) as Run) };
}
