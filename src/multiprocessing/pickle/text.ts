// Text in pickles: UTF-8 that may contain lone surrogates, which is Python's "surrogatepass".
import { isUtf8 } from 'node:buffer';

/** U+FFFD, which Node writes for a lone surrogate; with the `u` flag the halves of a pair do not match. */
const replaced = /[\ufffd\p{Surrogate}]/gu;
const replacement = Buffer.from('\ufffd');

const SURROGATE_BYTES = 3;

export function encodeText(text: string): Buffer {
  const bytes = Buffer.from(text);
  let at = 0;
  for (const [character] of text.matchAll(replaced)) {
    at = bytes.indexOf(replacement, at);
    bytes.set(threeBytes(character.charCodeAt(0)), at);
    at += SURROGATE_BYTES;
  }
  return bytes;
}

/**
 * Two lone surrogates in a row become the character that they encode: UTF-16 cannot tell them apart.
 * @returns undefined when the bytes are no such text
 */
export function decodeText(bytes: Buffer): string | undefined {
  if (isUtf8(bytes)) return bytes.toString();
  const surrogateFree = Buffer.from(bytes);
  for (let at = nextSurrogate(bytes, 0); at !== -1; at = nextSurrogate(bytes, at + SURROGATE_BYTES)) {
    surrogateFree.set(replacement, at);
  }
  return isUtf8(surrogateFree) ? decodeValid(bytes) : undefined;
}

/** Decodes valid text with lone surrogates, which Node's decoder does not accept. */
function decodeValid(bytes: Buffer): string {
  const utf16 = Buffer.alloc(bytes.length * 2);
  let written = 0;
  for (let at = 0; at < bytes.length;) {
    const lead = bytes.readUInt8(at++);
    // The number of leading one bits in the first byte is the number of bytes.
    const following = lead < 0x80 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    let point = following === 0 ? lead : lead & (0x3f >> following);
    for (const end = at + following; at < end; at++) point = (point << 6) | (bytes.readUInt8(at) & 0x3f);
    if (point > 0xffff) written = utf16.writeUInt16LE(0xd7c0 + (point >> 10), written);
    written = utf16.writeUInt16LE(point > 0xffff ? 0xdc00 | (point & 0x3ff) : point, written);
  }
  return utf16.toString('utf16le', 0, written);
}

/** Finds a lone surrogate: `ed a0..bf 80..bf`, which is nothing else in UTF-8. @returns -1 when there is none */
function nextSurrogate(bytes: Buffer, from: number): number {
  let at = bytes.indexOf(0xed, from);
  while (at !== -1 && at + SURROGATE_BYTES <= bytes.length) {
    if ((bytes.readUInt16BE(at + 1) & 0xe0c0) === 0xa080) return at;
    at = bytes.indexOf(0xed, at + 1);
  }
  return -1;
}

function threeBytes(unit: number): readonly number[] {
  return [0xe0 | (unit >> 12), 0x80 | ((unit >> 6) & 0x3f), 0x80 | (unit & 0x3f)];
}
