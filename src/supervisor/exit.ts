// Exit: how a process ended, or why it could not be started.

export type Exit =
  | { readonly is: 'code'; readonly code: number }
  | { readonly is: 'signal'; readonly signal: NodeJS.Signals }
  | { readonly is: 'not-started'; readonly error: Error }
  /** An earlier generation had started it: only a parent gets the exit code from the kernel. */
  | { readonly is: 'unknown' };

/** As the end of a sentence: `exited with code 1`. */
export function describeExit(exit: Exit): string {
  switch (exit.is) {
    case 'code':
      return `exited with code ${exit.code}`;
    case 'signal':
      return `was killed by ${exit.signal}`;
    case 'not-started':
      return `could not be started: ${exit.error.message}`;
    case 'unknown':
      return 'exited with an unknown code';
  }
}

export function isSuccess(exit: Exit): boolean {
  return exit.is === 'code' && exit.code === 0;
}
