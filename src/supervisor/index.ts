// The supervisor: starts worker processes for a dispatcher, replaces those that die, hands them over, and ends them.
export { describeExit, type Exit } from './exit.js';
export type { Host, ProcessName, Spawned, Start, Timer, Watch } from './host.js';
export { describeLaunched, launchedBy, RUN_THE_APP } from './launched.js';
export type { ProcessSnapshot, SlotSnapshot } from './slot-snapshot.js';
export type { ChildOutput, OutputEnd, OutputEnds } from './output.js';
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
export { namedDirectory } from './launch.js';
