// Listening: makes the listening socket for an address, over TCP or at a path.
import { Acceptor } from './acceptor.js';
import { formatAddress, resolveHost, toAddress, type AddressLike } from './address.js';
import { Descriptor } from './descriptor.js';
import { native } from './native.js';
import { systemError } from './system-error.js';
import { listenUnix } from './unix-listener.js';

/** What Node's `server.listen` asks for. The kernel caps it at `net.core.somaxconn`. */
const DEFAULT_BACKLOG = 511;

/** Only the same user may connect to a Unix socket: connecting needs write permission on the file (unix(7)). */
const DEFAULT_MODE = 0o600;

export interface ListenOptions {
  /** Most connections that wait in the kernel to be accepted. Default: 511; the kernel may cap it lower. */
  readonly backlog?: number;
  /** File mode of a Unix socket: who may connect. It applies before anyone can connect. Default: 0o600. */
  readonly mode?: number;
  /** Whether `::` accepts IPv6 only. Default: false, so it accepts IPv4 too. */
  readonly ipv6Only?: boolean;
}

/**
 * Listens at a path, an abstract name or a TCP address. A socket file that an ended process left behind is replaced; the
 * file of a process that still listens is not.
 *
 * @throws {PassfdError} `ERR_ADDRESS_IN_USE` (the message names the process where possible), `ERR_ADDRESS_MISSING`,
 * `ERR_ADDRESS_DENIED`, `ERR_ADDRESS`, `ERR_DESCRIPTOR_LIMIT`
 */
export async function listen(address: AddressLike, options: ListenOptions = {}): Promise<Acceptor> {
  const { backlog = DEFAULT_BACKLOG, mode = DEFAULT_MODE, ipv6Only = false } = options;
  const wanted = toAddress(address);
  if ('path' in wanted) {
    const { descriptor, file } = await listenUnix(wanted.path, backlog, mode);
    return new Acceptor(descriptor, file);
  }
  const [host = wanted.host] = await resolveHost(wanted.host);
  const result = native.listenTcp(host, wanted.port, backlog, ipv6Only ? 1 : 0);
  if (result < 0) throw systemError(result, 'listen', { address: formatAddress(wanted) });
  return new Acceptor(new Descriptor(result));
}
