// What the examples share at their edge: arguments, usage, and how a client is called in the output.
import type { Address, Descriptor } from 'passfd';

/** The arguments, as many as `usage` has words behind the name; else says how to call it, and ends with 1. */
export function readArguments(usage: string): string[] {
  const args = process.argv.slice(2);
  if (args.length === usage.split(' ').length - 1 && args.every((arg) => arg !== '')) return args;
  return exitWithUsage(usage);
}

/** A port number; 0 lets the kernel pick a free one. */
export function readPort(text: string | undefined, usage: string): number {
  const port = Number(text);
  return text !== undefined && /^\d{1,5}$/.test(text) && port <= 65_535 ? port : exitWithUsage(usage);
}

/** `HOST:PORT` of an address, or of a client, which may have hung up already. */
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
