// The descriptor library: open sockets and other descriptors, passed between processes.
export { Acceptor, listen, type Consumer, type ListenOptions } from './acceptor.js';
export {
  formatAddress,
  type Address,
  type AddressLike,
  type TcpAddress,
  type UnixAddress,
} from './address.js';
export { countClosing, ownAccount } from './closing.js';
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
export { Hold, lockFile, type LockKind } from './file-lock.js';
export { LastWill, type WillChannel } from './last-will.js';
export { settleWills } from './left-wills.js';
export { Message } from './message.js';
export { MAX_DESCRIPTORS } from './native.js';
export { OrphanReaper } from './orphan-reaper.js';
export type { Passable } from './passable.js';
export { isSameProcess, processIdentity, ProcessWatch, type ProcessWatchOptions } from './process-watch.js';
export { ReceiptWatch } from './receipt-watch.js';
export type { Unsent } from './sender.js';
export { SocketDiagnostics, type SocketIdentity } from './socket-diagnostics.js';
export {
  StreamSocket,
  type Handoff,
  type PeerCredentials,
  type ReceiveOptions,
  type SendOptions,
} from './stream-socket.js';
export type { ToSocketOptions } from './to-node.js';
