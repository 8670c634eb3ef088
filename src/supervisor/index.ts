// The supervisor: starts worker processes for a dispatcher, replaces those that die, hands them over, and ends them.
export { describeExit, type Exit } from './exit.js';
export type { WorkerPool, PoolWorker } from './worker-pool.js';
export type { Progress } from './rolling-restart.js';
export type { Vacancy } from './deaths.js';
export type { OutputMode } from './launch.js';
export {
  Supervisor,
  type ChildView,
  type Death,
  type RestartOptions,
  type SupervisorEvents,
  type SupervisorOptions,
} from './supervisor.js';
