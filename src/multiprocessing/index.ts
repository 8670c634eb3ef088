// Python's `multiprocessing.connection` and the descriptors of `multiprocessing.reduction`, under the same names.
export type { ConnectionAddress } from './address.js';
export type { AuthKey } from './authentication.js';
export { Client, type ClientOptions } from './client.js';
export { Connection, type ConnectionOptions, type RecvOptions } from './connection.js';
export { Crowd, originOf, type Origin } from './crowd.js';
export { recvFds, recvHandle, sendFds, sendHandle, type HandleOptions } from './handles.js';
export { Listener, type ListenerOptions } from './listener.js';
export * from './pickle/index.js';
export { Pipe } from './pipe.js';
