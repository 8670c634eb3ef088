// What other parts of passfd need of descriptors and processes, and the package does not export.
export { countClosing, ownAccount } from './closing.js';
export { isErrorCode } from './errors.js';
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
