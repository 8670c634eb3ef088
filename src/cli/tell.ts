// What a command that is no service tells its user: on standard error, without a log.

export function warn(message: string): void {
  printError(`passfd: ${message}\n`);
}

export function answer(text: string): void {
  print(`${text}\n`);
}

export function print(text: string): void {
  write(process.stdout, text, onOutputError);
}

export function printError(text: string): void {
  write(process.stderr, text, ignore);
}

/** Without a listener, an error would end the process. */
function write(to: NodeJS.WriteStream, text: string, onError: (error: NodeJS.ErrnoException) => void): void {
  if (!to.listeners('error').includes(onError)) to.on('error', onError);
  to.write(text);
}

function onOutputError({ code, message }: NodeJS.ErrnoException): void {
  // Whoever reads no more, as `head`, has what it wanted.
  if (code === 'EPIPE') return;
  process.exitCode = 1;
  warn(`the answer is lost: ${message}`);
}

function ignore(): void {
  // There is nowhere left to tell it.
}
