// The dispatcher: accepts connections and hands each to one of several workers.
export type { Commands } from './command-connection.js';
export type { ControlOptions } from './control.js';
export type { ChildIdentity } from './admission.js';
export { acceptModes, type AcceptMode } from './direct/accept-mode.js';
export { Dispatcher } from './dispatcher.js';
export type { OfferedSocket } from './kept-sockets.js';
export type { OwnAddress } from './listener-key.js';
export type {
  DispatcherEvents,
  DispatcherOptions,
  DrainOptions,
  OpenControlOptions,
  StopOptions,
} from './options.js';
export { policyNames, type Arrival, type Candidate, type Policy, type PolicyName } from './policy.js';
export type { Overload } from './pool.js';
export type { AwaitedWorker } from './awaited-workers.js';
export type { Status } from './status.js';
export type { Dialect, WorkerView } from './workers/worker-handle.js';
export { version } from './version.js';
