// How a process ended, or that it never began.

export type Exit =
  | { readonly is: 'code'; readonly code: number }
  | { readonly is: 'signal'; readonly signal: NodeJS.Signals }
  | { readonly is: 'not-started'; readonly error: Error };

/** For people, behind "it": `ended with code 1`. */
export function describeExit(exit: Exit): string {
  switch (exit.is) {
    case 'code':
      return `ended with code ${exit.code}`;
    case 'signal':
      return `was ended by ${exit.signal}`;
    case 'not-started':
      return `could not be started: ${exit.error.message}`;
  }
}

export function isSuccess(exit: Exit): boolean {
  return exit.is === 'code' && exit.code === 0;
}
