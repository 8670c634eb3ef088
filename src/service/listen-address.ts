// Where a service listens, as its settings say it.
import type { Address } from '../fd/index.js';

/** Where to listen: an address, or an inherited listening socket. */
export type ListenAddress = Address | { readonly fd: number };

/** As it is written: also all listening sockets that the service manager passed under a name. */
export type WrittenAddress = ListenAddress | { readonly fdName: string };

/** Every address of the machine, of IPv4 too; where there is no IPv6, `0.0.0.0` stands for it. */
export const ANY_HOST = '::';
