// Arguments and usage of the examples, and the names of clients in their output.
import type { Address, Descriptor } from 'passfd';

/** @returns the arguments, one for each word after the name in `usage`; otherwise prints the usage and exits with 1 */
export function readArguments(usage: string): string[] {
  const args = process.argv.slice(2);
  if (args.length === usage.split(' ').length - 1 && args.every((arg) => arg !== '')) return args;
  return exitWithUsage(usage);
}

/** @returns a port number; 0 lets the kernel choose a free port */
export function readPort(text: string | undefined, usage: string): number {
  const port = Number(text);
  return text !== undefined && /^\d{1,5}$/.test(text) && port <= 65_535 ? port : exitWithUsage(usage);
}

/** @returns `HOST:PORT` of an address or of a client, which may have hung up already */
export function formatPeer(peer: Address | Descriptor): string {
  try {
    const address = 'remoteAddress' in peer ? peer.remoteAddress : peer;
    return 'host' in address ? `${address.host}:${address.port}` : address.path;
  } catch (error) {
    return `a client that is gone: ${(error as Error).message}`;
  }
}

function exitWithUsage(usage: string): never {
  process.stderr.write(`Usage: ${usage}\n`);
  process.exit(1);
}
