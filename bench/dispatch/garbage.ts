// Garbage of Node's processes, which is not what a connection costs: collected before memory is measured.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';

const TIMEOUT_MS = 10_000;

/** With which a process of Node, and those that it starts, collect when they are asked. */
export function collectingEnvironment(directory: string): NodeJS.ProcessEnv {
  const preload = new URL('apps/collect.js', import.meta.url).href;
  return { NODE_OPTIONS: `--import ${preload}`, BENCH_COLLECTED: directory };
}

/** Has those of these processes collect that are Node's. */
export async function collectGarbage(directory: string, pids: readonly number[]): Promise<void> {
  const files = pids
    .map((pid) => ({ pid, file: join(directory, `${pid}.collected`) }))
    .filter(({ file }) => existsSync(file));
  for (const { pid, file } of files) {
    const before = readFileSync(file, 'utf8');
    const deadline = performance.now() + TIMEOUT_MS;
    process.kill(pid, 'SIGPWR');
    while (readFileSync(file, 'utf8') === before) {
      if (performance.now() > deadline) throw new Error(`Process ${pid} does not collect its garbage`);
      await sleep(1);
    }
  }
}
