// The supervisor: starts worker processes for a dispatcher, replaces those that die, and ends them all.
export { describeExit, type Exit } from './exit.js';
export type { Host, Spawned, Start, Timer } from './host.js';
export type { Pool, PoolWorker } from './pool.js';
export {
  Supervisor,
  type ChildView,
  type Output,
  type SupervisorEvents,
  type SupervisorOptions,
} from './supervisor.js';
