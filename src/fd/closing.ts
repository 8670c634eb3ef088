// Closing descriptors that a peer can make slow to close. Threads do that: see native/closer.h.
import { native } from './native.js';
import { noteFreed, noteFreedSoon } from './starvation.js';

/**
 * Closes of one account wait for each other; a slow close delays no other account. A number from 0 is a user id, a negative
 * number is the account of one object.
 */
export type ClosingAccount = number;

/** A user's new connections are refused while this many of its closes wait, and the oldest waits for at least `LATE_MS`. */
const MAX_LATE = 256;
const LATE_MS = 1_000;

let lastOwn = 0;

/** A new account for one object. */
export function ownAccount(): ClosingAccount {
  return --lastOwn;
}

/** Takes over a descriptor, and has a thread close it soon. @returns 0, or `-EBADF` when it is not open */
export function closeLater(fd: number, account: ClosingAccount): number {
  const result = native.closeLater(fd, account);
  noteFreedSoon();
  return result;
}

/** Takes over a stream socket that no other process uses, and ends it. It is closed at once if its queue has no descriptor. */
export function refuse(fd: number, account: ClosingAccount): void {
  native.refuse(fd, account);
  noteFreed();
}

/** The closes of an account that wait. @param leastMs the oldest must have waited this long; otherwise the result is 0 */
export function countClosing(account: ClosingAccount, leastMs: number): number {
  return native.closing(account, leastMs);
}

/** Whether so many closes of a user are slow that its new connections are refused. */
export function isLate(user: ClosingAccount): boolean {
  return countClosing(user, LATE_MS) >= MAX_LATE;
}
