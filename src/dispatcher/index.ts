// The dispatcher: accepts connections and hands each to one of several workers.
export type { Commands, ControlOptions } from './control.js';
export { Dispatcher, type DispatcherEvents, type DispatcherOptions } from './dispatcher.js';
export { policyNames, type Arrival, type Candidate, type Policy, type PolicyName } from './policy.js';
export type { Overload } from './pool.js';
export type { Status } from './status.js';
export type { Dialect, WorkerView } from './worker-handle.js';
