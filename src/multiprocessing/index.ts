// The package `passfd/multiprocessing`: Python's `multiprocessing.connection` and `multiprocessing.reduction`, in camelCase.
export type { ConnectionAddress } from './address.js';
export type { AuthKey } from './authentication.js';
export { Client, type ClientOptions } from './client.js';
export { Connection, type ConnectionOptions, type RecvOptions } from './connection.js';
export { recvFds, recvHandle, sendFds, sendHandle, type HandleOptions } from './handles.js';
export { Listener, type ListenerOptions } from './listener.js';
export * from './pickle/index.js';
export { Pipe } from './pipe.js';
