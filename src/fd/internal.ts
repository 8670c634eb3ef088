// What other parts of passfd use of this part, and the package does not export.
export { whenAborted } from './abort.js';
export type { Consumer } from './acceptor.js';
export { beat, Board, BOARD_WORDS, boardClock, queueLength } from './board.js';
export { countClosing, ownAccount } from './closing.js';
export { hasHungUp, isErrorCode } from './errors.js';
export { Hold, lockFile, type LockKind } from './file-lock.js';
export { LastWill, type WillChannel } from './last-will.js';
export { settleWills } from './left-wills.js';
export { OrphanReaper } from './orphan-reaper.js';
export { isSameProcess, processIdentity, ProcessWatch, type ProcessWatchOptions } from './process-watch.js';
export { ReceiptWatch } from './receipt-watch.js';
export type { Unsent } from './sender.js';
export { SocketDiagnostics, type SocketIdentity } from './socket-diagnostics.js';
export type { Handoff } from './stream-socket.js';
export { MAX_TIMER_MS } from './timers.js';
