// Runs a benchmark by its name: `npm run bench -- NAME [--quick]`.
const names = ['descriptors'];

const [, , name = '', ...args] = process.argv;
if (names.includes(name)) {
  const { run } = (await import(new URL(`./${name}.js`, import.meta.url).href)) as {
    run: (options: { quick: boolean }) => Promise<void>;
  };
  await run({ quick: args.includes('--quick') });
} else {
  process.stderr.write(`Usage: npm run bench -- NAME [--quick]\nBenchmarks: ${names.join(', ')}\n`);
  process.exitCode = 2;
}
