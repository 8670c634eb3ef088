// `npm run bench -- [NAME] [OPTIONS]`: runs a benchmark by its name. Exit codes: 0 done, 1 something failed, 2 wrong usage.
import process from 'node:process';

import { Command, InvalidArgumentError, Option } from 'commander';

import * as descriptors from './descriptors.js';
import * as dispatch from './dispatch.js';
import { contestants } from './dispatch/contestants.js';
import { works } from './dispatch/works.js';

interface DispatchFlags {
  readonly quick?: true;
  readonly tiny?: true;
  readonly works?: typeof works;
  readonly contestants?: typeof contestants;
  readonly rounds?: number;
  readonly results: string;
}

const WRONG_USAGE = 2;

const program = new Command('npm run bench --')
  .description('measures passfd beside what else does the same')
  .exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? 0 : WRONG_USAGE));

program
  .command('dispatch', { isDefault: true })
  .description('what it costs to give connections to workers')
  .addOption(new Option('--quick', 'in less than two minutes').conflicts('tiny'))
  .option('--tiny', 'only what shows that everything works')
  .option('--works <letters>', 'which works, such as a,c', (text) => chosen(text, works, ({ id }) => id))
  .option('--contestants <names>', 'which contestants, such as passfd-run,limit', (text) =>
    chosen(text, contestants, ({ name }) => name),
  )
  .option('--rounds <n>', 'how often each is measured', (text) => {
    if (!/^[1-9]\d{0,3}$/.test(text)) throw new InvalidArgumentError('A number from 1 is wanted.');
    return Number(text);
  })
  .option('--results <directory>', 'where the results are written', dispatch.defaultResults)
  .addHelpText(
    'after',
    `
Works:
${works.map(({ id, title }) => `  ${id}  ${title}`).join('\n')}

Contestants:
${contestants.map(({ name, title }) => `  ${name.padEnd(20)} ${title}`).join('\n')}`,
  )
  .action(async (flags: DispatchFlags) => {
    const isAllRight = await dispatch.run({
      scale: flags.tiny ? 'tiny' : flags.quick ? 'quick' : 'dispatch',
      works: flags.works ?? works,
      contestants: flags.contestants ?? contestants,
      rounds: flags.rounds,
      results: flags.results,
    });
    if (!isAllRight) process.exitCode = 1;
  });

program
  .command('descriptors')
  .description('how many descriptors go from one process to another')
  .option('--quick', 'with fewer')
  .action(({ quick = false }: { quick?: boolean }) => descriptors.run({ quick }));

await program.parseAsync();

/** Those of a list that a user names, separated by commas. */
function chosen<T>(text: string, all: readonly T[], nameOf: (item: T) => string): T[] {
  const names = text.split(',');
  const unknown = names.find((name) => !all.some((item) => nameOf(item) === name));
  if (unknown !== undefined) {
    throw new InvalidArgumentError(`There is no "${unknown}". There are: ${all.map(nameOf).join(', ')}.`);
  }
  return all.filter((item) => names.includes(nameOf(item)));
}
