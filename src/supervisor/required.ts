// Which addresses a new process must serve before the old one is drained.
import { formatAddress, type Address } from '../fd/index.js';

/**
 * @param missing addresses that the old process serves and the new one does not
 * @param without addresses to give up: as they are printed, a port number, or `unix:PATH`
 */
export function required(missing: readonly Address[], without: readonly string[]): readonly Address[] {
  return missing.filter((address) => !namesOf(address).some((name) => without.includes(name)));
}

function namesOf(address: Address): string[] {
  const printed = formatAddress(address);
  return [printed, 'path' in address ? `unix:${printed}` : String(address.port)];
}
