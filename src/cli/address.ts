// How an address is written on the command line: PORT, HOST:PORT, [IPv6]:PORT, unix:PATH, fd:N, fd:NAME.
import { InvalidArgumentError } from 'commander';

import { ANY_HOST, type WrittenAddress } from '../service/index.js';
import { isDescriptorName } from '../systemd/index.js';

const MAX_PORT = 65_535;

/** Descriptors 0 to 2 are the standard streams. */
const FIRST_INHERITED_FD = 3;

/** A descriptor is an int. */
const LAST_FD = 0x7fff_ffff;

/** @throws {InvalidArgumentError} */
export function parseAddress(text: string): WrittenAddress {
  if (text.startsWith('unix:')) return { path: parsePath(text.slice('unix:'.length)) };
  if (text.startsWith('fd:')) return parseInherited(text.slice('fd:'.length));
  const { host, port } = split(text);
  return { host, port: parsePort(port) };
}

/** `@name` is an abstract name, as the kernel itself shows it (/proc/net/unix). */
function parsePath(text: string): string {
  if (text === '' || text === '@') throw new InvalidArgumentError('A path is missing after "unix:".');
  return text.startsWith('@') ? `\0${text.slice(1)}` : text;
}

/** Digits alone are a number. Anything else is a name, as the service manager allows it (sd_listen_fds(3)). */
function parseInherited(text: string): { fd: number } | { fdName: string } {
  const fd = Number(text);
  if (/^\d+$/.test(text)) {
    if (fd >= FIRST_INHERITED_FD && fd <= LAST_FD) return { fd };
  } else if (isDescriptorName(text)) {
    return { fdName: text };
  }
  throw new InvalidArgumentError(
    `After "fd:" comes the number of an inherited descriptor, from ${FIRST_INHERITED_FD} to ${LAST_FD}, or its name.`,
  );
}

function split(text: string): { host: string; port: string } {
  const [, bracketed, named, port = ''] = /^(?:\[([^\]]+)\]:|([^:[\]]+):)?([^:]*)$/.exec(text) ?? [];
  const host = bracketed ?? named;
  if (port !== '') return { host: host ?? ANY_HOST, port };
  throw new InvalidArgumentError(
    'An address is PORT, HOST:PORT, [IPv6]:PORT, unix:PATH, fd:N or fd:NAME, for example 8080 or 127.0.0.1:8080.',
  );
}

function parsePort(text: string): number {
  const port = Number(text);
  if (/^\d+$/.test(text) && port <= MAX_PORT) return port;
  throw new InvalidArgumentError(`A port is a number from 0 to ${MAX_PORT}, not "${text}".`);
}
