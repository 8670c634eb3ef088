// Which addresses a new process has to serve before the old one in its place may leave.
import { formatAddress, type Address } from '../fd/index.js';

/**
 * @param missing addresses that the old one serves, and the new one does not
 * @param without those to be given up, each as it is printed, or as the number of a port, or as `unix:PATH`
 */
export function required(missing: readonly Address[], without: readonly string[]): readonly Address[] {
  return missing.filter((address) => !namesOf(address).some((name) => without.includes(name)));
}

function namesOf(address: Address): string[] {
  const printed = formatAddress(address);
  return [printed, 'path' in address ? `unix:${printed}` : String(address.port)];
}
