// For `node --import`: a clock a thousand times as fast, so that a program can have waited for a minute. On SIGUSR2 an
// minute begins, and the program says when it is over.
const SPEED = 1000;
const MINUTE_MS = 60_000;

const { setTimeout: real } = globalThis;

globalThis.setTimeout = ((callback: () => void, milliseconds = 0, ...rest: []) =>
  real(callback, milliseconds / SPEED, ...rest)) as typeof setTimeout;

process.on('SIGUSR2', () => {
  setTimeout(() => {
    console.log('A minute is over');
  }, MINUTE_MS);
});
