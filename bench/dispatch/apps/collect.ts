// Preloaded where memory is measured: the process collects its garbage at SIGPWR, and counts in a file how often it did.
import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

const file = join(process.env['BENCH_COLLECTED'] ?? '', `${process.pid}.collected`);
let times = 0;

process.on('SIGPWR', () => {
  collect();
  times++;
  tell();
});
tell();

/** In one step, so that nobody reads half of it. */
function tell(): void {
  writeFileSync(`${file}.new`, String(times));
  renameSync(`${file}.new`, file);
}
