// System calls that fail on demand, where no test can bring the kernel to it.
import { constants } from 'node:os';

import { closeAll, Descriptor } from '../../src/fd/index.js';
import { native } from '../../src/fd/native.js';

/** Calls on one descriptor: what is sent, what a worker is sent, and what is heard, by another call where it is no child. */
type Call = 'send' | 'sendHandoff' | 'receive' | 'accept' | 'duplicate';

/** Has a call on one descriptor, or on any, fail so many times, until it is disposed of. */
export function failing(
  call: Call,
  fd: number | 'any',
  error: keyof typeof constants.errno,
  times = Number.POSITIVE_INFINITY,
): Disposable {
  const calls = native as Record<Call | 'receiveBytes', (fd: number, ...rest: unknown[]) => number>;
  const names = call === 'receive' ? ([call, 'receiveBytes'] as const) : ([call] as const);
  const real = { ...calls };
  let left = times;
  for (const name of names) {
    calls[name] = (of, ...rest) => {
      if ((fd !== 'any' && of !== fd) || left-- <= 0) return real[name](of, ...rest);
      return -constants.errno[error];
    };
  }
  return {
    [Symbol.dispose]: () => {
      for (const name of names) calls[name] = real[name];
    },
  };
}

/** Has no board made, until it is disposed of. */
export function withoutBoards(error: keyof typeof constants.errno): Disposable {
  const calls = native as { boardCreate: typeof native.boardCreate };
  const { boardCreate } = calls;
  calls.boardCreate = () => -constants.errno[error];
  return {
    [Symbol.dispose]: () => {
      calls.boardCreate = boardCreate;
    },
  };
}

/** Loses the descriptors of the next message that has some, as the kernel does at the descriptor limit. */
export function losingDescriptors(): Disposable {
  const calls = native as Pick<typeof native, 'receive'>;
  const { receive } = calls;
  calls.receive = (fd, bytes, offset, length, results) => {
    const result = receive(fd, bytes, offset, length, results);
    const count = results[0] ?? 0;
    if (result < 0 || count === 0) return result;
    calls.receive = receive;
    closeAll(Array.from(results.subarray(2, count + 2), (one) => new Descriptor(one)));
    results.set([0, 1]);
    return result;
  };
  return {
    [Symbol.dispose]: () => {
      calls.receive = receive;
    },
  };
}

/** Counts calls, until it is disposed of. */
export function counting(call: 'accept'): { readonly count: number } & Disposable {
  const calls = native as Record<typeof call, typeof native.accept>;
  const real = calls[call];
  let count = 0;
  calls[call] = (...args) => {
    count++;
    return real(...args);
  };
  return {
    get count() {
      return count;
    },
    [Symbol.dispose]: () => {
      calls[call] = real;
    },
  };
}
