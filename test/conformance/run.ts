// Runs Node's own tests of servers under `passfd run --workers 1`: what passes alone is to pass there too.
import { differences } from './differences.js';
import { alone, PASSED, underPassfd, type Outcome } from './outcome.js';
import { nodeTests, type NodeTest } from './source.js';

/** How many run at the same time; each has fixed ports of its own. */
const LANES = 2;

/** So often it is told how far the run is. */
const TOLD_EVERY = 100;

/** The end of what a failed test has printed. */
const SHOWN_LINES = 30;

/** Of the tests, more that fail alone mean that they cannot run here, and prove nothing. */
const MAX_FAILING_ALONE = 0.1;

type Verdict =
  'same' | 'fails alone' | 'known difference' | 'unsteady' | 'difference' | 'no difference any more';

const words = process.argv.slice(2);
const all = await nodeTests().catch((error: unknown) => {
  tell(`Node's tests are not here, so nothing is compared: ${(error as Error).message}`);
  process.exit(1);
});
const tests = all.filter(({ name }) => words.length === 0 || words.some((word) => name.includes(word)));
const counts = new Map<Verdict, number>();
let done = 0;
const left = tests.values();
await Promise.all(
  Array.from({ length: LANES }, async (_, lane) => {
    for (const test of left) {
      const verdict = await compare(test, lane);
      counts.set(verdict, (counts.get(verdict) ?? 0) + 1);
      if (++done % TOLD_EVERY === 0) tell(`${done} of ${tests.length}`);
    }
  }),
);
for (const [verdict, count] of counts) tell(`${count} × ${verdict}`);
const failingAlone = counts.get('fails alone') ?? 0;
const isProof = tests.length > 0 && failingAlone <= tests.length * MAX_FAILING_ALONE;
if (!isProof) tell(`${failingAlone} of ${tests.length} fail alone: this run proves nothing`);
const isGood = isProof && !counts.has('difference') && !counts.has('no difference any more');
// What a test has left behind may still hold its output.
process.exit(isGood ? 0 : 1);

async function compare(test: NodeTest, lane: number): Promise<Verdict> {
  const isKnown = differences.has(test.name);
  const first = await underPassfd(test, lane);
  if (first.end === PASSED) return isKnown ? judged(test, 'no difference any more') : 'same';
  if (isKnown) return 'known difference';
  const { end } = await alone(test, lane);
  if (end !== PASSED) return judged(test, 'fails alone');
  // Many of Node's tests depend on time, and fail on a busy machine.
  const second = await underPassfd(test, lane);
  return judged(test, second.end === PASSED ? 'unsteady' : 'difference', first);
}

function judged(test: NodeTest, verdict: Verdict, outcome?: Outcome): Verdict {
  tell(`${test.name}: ${verdict}${outcome ? `: it ${outcome.end}` : ''}`);
  for (const line of outcome?.output.slice(-SHOWN_LINES) ?? []) tell(`    ${line}`);
  return verdict;
}

function tell(line: string): void {
  process.stdout.write(`${line}\n`);
}
