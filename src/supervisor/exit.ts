// How a process ended, or that it never began.

export type Exit =
  | { readonly is: 'code'; readonly code: number }
  | { readonly is: 'signal'; readonly signal: NodeJS.Signals }
  | { readonly is: 'not-started'; readonly error: Error }
  /** It was started by an earlier generation: the kernel tells only a parent how its child ended. */
  | { readonly is: 'unknown' };

/** For people, behind "it": `ended with code 1`. */
export function describeExit(exit: Exit): string {
  switch (exit.is) {
    case 'code':
      return `ended with code ${exit.code}`;
    case 'signal':
      return `was ended by ${exit.signal}`;
    case 'not-started':
      return `could not be started: ${exit.error.message}`;
    case 'unknown':
      return 'ended, and only the process that had started it knows how';
  }
}

export function isSuccess(exit: Exit): boolean {
  return exit.is === 'code' && exit.code === 0;
}
