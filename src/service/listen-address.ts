// Where a service listens, as its settings name it.
import type { Address } from '../fd/index.js';

/** Where to listen: an address, or an inherited listening socket. */
export type ListenAddress = Address | { readonly fd: number };

/** As `--listen` names it: also all listening sockets that the service manager passed under one name. */
export type WrittenAddress = ListenAddress | { readonly fdName: string };

/** Every address of the machine, IPv4 included. Without IPv6, `0.0.0.0` is used in its place. */
export const ANY_HOST = '::';

/** Whether it is a Unix socket with a file. */
export function hasFile(address: WrittenAddress): address is { readonly path: string } {
  return 'path' in address && !address.path.startsWith('\0');
}
