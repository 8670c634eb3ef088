// Runs the example with a given name: `npm run --silent example -- NAME ARGS`.
const names = ['pipe', 'server', 'worker', 'raw-server', 'raw-worker'];

const [node = '', , name = '', ...args] = process.argv;
if (names.includes(name)) {
  const file = new URL(`./${name}.js`, import.meta.url);
  process.argv = [node, file.pathname, ...args];
  await import(file.href);
} else {
  process.stderr.write(`Usage: example name args\nExamples: ${names.join(', ')}\n`);
  process.exitCode = 1;
}
