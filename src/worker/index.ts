// The worker SDK: joins a dispatcher, and gives its connections to servers.
export { join, type JoinOptions } from './join.js';
export type { Worker } from './worker.js';
