// What a service needs of the supervisor to pass children from one generation to the next; the package does not export it.
export type { Host, ProcessName, Spawned, Start, Timer, Watch } from './host.js';
export { namedDirectory } from './launch.js';
export { describeLaunched, launchedBy, RUN_THE_APP } from './launched.js';
export type { ChildOutput, OutputEnd, OutputEnds } from './output.js';
export type { ProcessSnapshot, SlotSnapshot } from './slot-snapshot.js';
