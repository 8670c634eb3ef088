// Names of descriptors, as the service manager takes them, and those of listening sockets that are stored.
import { createHash } from 'node:crypto';

import { formatAddress, type Address } from '../fd/index.js';

/** Of a name in the descriptor store (sd_notify(3)): ASCII, no control characters, no colon. */
const MAX_NAME_LENGTH = 255;
const validName = /^[\x20-\x39\x3b-\x7e]+$/;

const PREFIX = 'listener-';

/** As `listener-127.0.0.1%3A8080`: the address, with what a name cannot have as `%` and two hexadecimal digits a byte. */
export function storedName(address: Address): string {
  const bytes = Buffer.from(formatAddress(address)).toString('latin1');
  const name = PREFIX + bytes.replace(/[^\x21-\x24\x26-\x39\x3b-\x7e]/g, escapeByte);
  if (name.length <= MAX_NAME_LENGTH) return name;
  return PREFIX + createHash('sha256').update(bytes, 'latin1').digest('hex');
}

/** systemd takes no notice of a name that it finds wrong, and stores the descriptor without one. */
export function isDescriptorName(name: string): boolean {
  return name.length <= MAX_NAME_LENGTH && validName.test(name);
}

function escapeByte(byte: string): string {
  return `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`;
}
