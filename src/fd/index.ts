// The package `passfd`: open sockets and other descriptors, passed between processes.
export { Acceptor } from './acceptor.js';
export {
  formatAddress,
  type Address,
  type AddressLike,
  type TcpAddress,
  type UnixAddress,
} from './address.js';
export { connect, socketPair, type ConnectOptions } from './connect.js';
export { sendDatagram } from './datagram.js';
export {
  closeAll,
  Descriptor,
  inheritDescriptor,
  type Description,
  type DescriptorKind,
} from './descriptor.js';
export { DescriptorStream } from './descriptor-stream.js';
export { PassfdError, type ErrorCode } from './errors.js';
export { listen, type ListenOptions } from './listen.js';
export { Message } from './message.js';
export { MAX_DESCRIPTORS } from './native.js';
export type { Passable } from './passable.js';
export {
  StreamSocket,
  type PeerCredentials,
  type ReceiveOptions,
  type SendOptions,
} from './stream-socket.js';
export type { ToSocketOptions } from './to-node.js';
