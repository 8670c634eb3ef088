// System calls that fail on demand, where no test can bring the kernel to it.
import { constants } from 'node:os';

import { native } from '../../src/fd/native.js';

/** Calls on one descriptor: what is sent, what a worker is sent, and what is heard. */
type Call = 'send' | 'sendHandoff' | 'receive';

/** Has a call on one descriptor fail so many times, until it is disposed of. */
export function failing(
  call: Call,
  fd: number,
  error: keyof typeof constants.errno,
  times = Number.POSITIVE_INFINITY,
): Disposable {
  const calls = native as Record<Call, (fd: number, ...rest: unknown[]) => number>;
  const real = calls[call];
  let left = times;
  calls[call] = (of, ...rest) => {
    if (of !== fd || left-- <= 0) return real(of, ...rest);
    return -constants.errno[error];
  };
  return {
    [Symbol.dispose]: () => {
      calls[call] = real;
    },
  };
}
