// Names of descriptors in the service manager's store.
import { createHash } from 'node:crypto';

import { formatAddress, type Address } from '../fd/index.js';

/** A name is ASCII without control characters and colons (sd_notify(3)). */
const MAX_NAME_LENGTH = 255;
const validName = /^[\x20-\x39\x3b-\x7e]+$/;

const PREFIX = 'listener-';

/** For example `listener-127.0.0.1%3A8080`: bytes that a name cannot have are `%` and two hexadecimal digits. */
export function storedName(address: Address): string {
  const bytes = Buffer.from(formatAddress(address)).toString('latin1');
  const name = PREFIX + bytes.replace(/[^\x21-\x24\x26-\x39\x3b-\x7e]/g, escapeByte);
  if (name.length <= MAX_NAME_LENGTH) return name;
  return PREFIX + createHash('sha256').update(bytes, 'latin1').digest('hex');
}

/** systemd ignores an invalid name, and stores the descriptor without one. */
export function isDescriptorName(name: string): boolean {
  return name.length <= MAX_NAME_LENGTH && validName.test(name);
}

function escapeByte(byte: string): string {
  return `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`;
}
