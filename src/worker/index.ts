// The public interface of `passfd/worker`: join a dispatcher, and give its connections to servers.
export { join, type JoinOptions } from './join.js';
export type { Worker } from './worker.js';
