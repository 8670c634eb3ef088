// The dispatcher: accepts connections and hands each to one of several workers.
export type { Commands } from './command-connection.js';
export type { ControlOptions } from './control.js';
export {
  Dispatcher,
  type ChildIdentity,
  type DispatcherEvents,
  type DispatcherOptions,
  type OpenControlOptions,
  type StopOptions,
} from './dispatcher.js';
export type { OfferedSocket } from './listeners.js';
export { policyNames, type Arrival, type Candidate, type Policy, type PolicyName } from './policy.js';
export type { Overload } from './pool.js';
export type { AwaitedWorker } from './awaited-workers.js';
export type { Status } from './status.js';
export type { Dialect, WorkerView } from './workers/worker-handle.js';
export { version } from './version.js';
