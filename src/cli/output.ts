// What a command prints: its answer on standard output, warnings and errors on standard error.

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

/** Without a listener, an error ends the process. */
function write(to: NodeJS.WriteStream, text: string, onError: (error: NodeJS.ErrnoException) => void): void {
  if (!to.listeners('error').includes(onError)) to.on('error', onError);
  to.write(text);
}

function onOutputError({ code, message }: NodeJS.ErrnoException): void {
  // A reader such as `head` closes the pipe when it has enough.
  if (code === 'EPIPE') return;
  process.exitCode = 1;
  warn(`could not write the answer: ${message}`);
}

function ignore(): void {
  // There is no other place to report it.
}
