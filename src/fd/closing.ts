// Closing what a peer can make slow to close: threads do that, see native/closer.h.
import { native } from './native.js';
import { noteFreed, noteFreedSoon } from './starvation.js';

/**
 * Whose closes wait for each other: a user's, by number; below zero, those of something else. One that is slow delays
 * nothing of another account.
 */
export type ClosingAccount = number;

/** While a user has so many that wait, the oldest for so long, its new connections to Unix sockets are refused. */
const MAX_LATE = 256;
const LATE_MS = 1_000;

let lastOwn = 0;

/** An account for one thing. */
export function ownAccount(): ClosingAccount {
  return --lastOwn;
}

/** Takes over a descriptor, and closes it soon. @returns 0, or `-EBADF` when it is not open */
export function closeLater(fd: number, account: ClosingAccount): number {
  const result = native.closeLater(fd, account);
  noteFreedSoon();
  return result;
}

/** Takes over a stream socket that nobody else uses, and ends it; closes it at once when no descriptor is in its queue. */
export function refuse(fd: number, account: ClosingAccount): void {
  native.refuse(fd, account);
  noteFreed();
}

/** @param leastMs since when the oldest waits, at least; else none is counted */
export function countClosing(account: ClosingAccount, leastMs: number): number {
  return native.closing(account, leastMs);
}

/** Whether so many closes of a user are slow that nothing more is taken from it. */
export function isLate(user: ClosingAccount): boolean {
  return countClosing(user, LATE_MS) >= MAX_LATE;
}
