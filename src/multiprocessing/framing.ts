// Frames of Python's `multiprocessing.connection`: a length, then that many bytes.
//
//   frame  := length32 payload                    signed, big-endian, 0 .. 0x7fffffff
//           | ff ff ff ff length64 payload        unsigned, big-endian; CPython uses it above 0x7fffffff
//
// Source: CPython's Lib/multiprocessing/connection.py, Connection._send_bytes and _recv_bytes.
import { PassfdError } from '../fd/index.js';

/** Bytes of a header, and of the long length after the mark -1. */
export const HEADER_BYTES = 4;
export const LONG_LENGTH_BYTES = 8;

/** Largest payload that is sent. Only CPython sends longer frames, and interoperation does not need them. */
export const MAX_PAYLOAD_BYTES = 0x7fff_ffff;

/** Up to this size, header and payload are sent in one piece, as CPython does: a copy costs less than a second packet. */
const ONE_PIECE_BYTES = 16_384;

const LONG_LENGTH_MARK = -1;

/** The pieces to send, in order. Only small payloads are copied. @throws {PassfdError} `ERR_FRAME_TOO_LARGE` */
export function encodeFrame(payload: Uint8Array): Uint8Array[] {
  if (payload.length > MAX_PAYLOAD_BYTES) throw tooLarge(payload.length, MAX_PAYLOAD_BYTES);
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeInt32BE(payload.length);
  return payload.length <= ONE_PIECE_BYTES ? [Buffer.concat([header, payload])] : [header, payload];
}

/** @returns the length of the payload, or `long` when the length follows in 8 more bytes @throws {PassfdError} `ERR_FRAME` */
export function decodeHeader(header: Buffer): number | 'long' {
  const length = header.readInt32BE();
  if (length >= 0) return length;
  if (length === LONG_LENGTH_MARK) return 'long';
  throw new PassfdError(
    'ERR_FRAME',
    `A frame announces a negative length: ${length}; this is not a multiprocessing connection`,
  );
}

/** @throws {PassfdError} `ERR_FRAME` when the length is no safe integer */
export function decodeLongLength(bytes: Buffer): number {
  const length = bytes.readBigUInt64BE();
  if (length > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new PassfdError('ERR_FRAME', `A frame announces ${length} bytes`);
  }
  return Number(length);
}

export function tooLarge(length: number, limit: number): PassfdError {
  return new PassfdError('ERR_FRAME_TOO_LARGE', `A frame has ${length} bytes; the limit is ${limit}`);
}
