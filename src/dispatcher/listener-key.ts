// The key of a listener: who asked for its address, and in which words. The next dispatcher knows a socket again by it.
//
//   own 127.0.0.1:8080            the dispatcher's owner; the second one in the same words ends with " 2"
//   own-fd 3                      the owner, for an inherited socket
//   wanted {"path":"/tmp/a",...}  a worker
//   wanted-fd {"fd":3,...}        a worker, for a socket that another process has made and keeps
import { formatAddress, type AddressLike } from '../fd/index.js';
import type { WantedAddress } from '../handoff/index.js';

/** An address of the dispatcher's own. `{ fd }` is a listening socket that this process has inherited and keeps. */
export type OwnAddress = AddressLike | { readonly fd: number };

type Origin = 'own' | 'own-fd' | 'wanted' | 'wanted-fd';

/** Keeps the words of the caller: at port 0, the next dispatcher gets the port that the kernel had picked. */
export function ownKey(address: OwnAddress): string {
  if (typeof address === 'object' && 'fd' in address) return keyOf('own-fd', String(address.fd));
  return keyOf('own', typeof address === 'string' ? address : formatAddress(address));
}

export function wantedKey(address: WantedAddress): string {
  return keyOf('fd' in address ? 'wanted-fd' : 'wanted', JSON.stringify(address));
}

/** The key of an offered socket that another process keeps. */
export function inheritedKey(address: WantedAddress): string {
  return keyOf('wanted-fd', JSON.stringify(address));
}

export function isOwnKey(key: string): boolean {
  return originOf(key).startsWith('own');
}

/** Whether another process has made the socket, and its file, and keeps it. */
export function isInheritedKey(key: string): boolean {
  return originOf(key).endsWith('-fd');
}

/** What a worker has asked for. @returns undefined for a key of another kind, also of a kind that a later release makes */
export function wantedIn(key: string): WantedAddress | undefined {
  if (!/^wanted(-fd)? /.test(key)) return undefined;
  return JSON.parse(key.slice(key.indexOf(' '))) as WantedAddress;
}

function keyOf(origin: Origin, words: string): string {
  return `${origin} ${words}`;
}

function originOf(key: string): string {
  return key.slice(0, key.indexOf(' '));
}
