// System calls that fail on demand, where no test can bring the kernel to it.
import { constants } from 'node:os';

import { native } from '../../src/fd/native.js';

/** Calls on one descriptor: what is sent, what a worker is sent, and what is heard, by another call where it is no child. */
type Call = 'send' | 'sendHandoff' | 'receive';

/** Has a call on one descriptor fail so many times, until it is disposed of. */
export function failing(
  call: Call,
  fd: number,
  error: keyof typeof constants.errno,
  times = Number.POSITIVE_INFINITY,
): Disposable {
  const calls = native as Record<Call | 'receiveBytes', (fd: number, ...rest: unknown[]) => number>;
  const names = call === 'receive' ? ([call, 'receiveBytes'] as const) : ([call] as const);
  const real = { ...calls };
  let left = times;
  for (const name of names) {
    calls[name] = (of, ...rest) => {
      if (of !== fd || left-- <= 0) return real[name](of, ...rest);
      return -constants.errno[error];
    };
  }
  return {
    [Symbol.dispose]: () => {
      for (const name of names) calls[name] = real[name];
    },
  };
}
