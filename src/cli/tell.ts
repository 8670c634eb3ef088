// What a command that is no service tells its user: on standard error, without a log.

export function warn(message: string): void {
  process.stderr.write(`passfd: ${message}\n`);
}

export function answer(text: string): void {
  process.stdout.write(`${text}\n`);
}
