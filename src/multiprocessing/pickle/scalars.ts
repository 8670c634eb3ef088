// Reads the opcodes of values without parts: numbers, text and bytes.
import { type Input } from './input.js';
import { checkLimit, type PickleLimits } from './limits.js';
import { op } from './opcodes.js';
import { decodeText } from './text.js';
import { type PickleKey } from './values.js';

type ReadScalar = (input: Input, limits: PickleLimits) => PickleKey | Buffer;

export const scalarReaders: ReadonlyMap<number, ReadScalar> = new Map<number, ReadScalar>([
  [op.NONE, () => null],
  [op.NEWTRUE, () => true],
  [op.NEWFALSE, () => false],
  [op.BININT1, (input) => input.uint8()],
  [op.BININT2, (input) => input.uint16()],
  [op.BININT, (input) => input.int32()],
  [op.LONG1, (input, limits) => readInteger(input, input.uint8(), limits)],
  [op.LONG4, (input, limits) => readInteger(input, input.int32(), limits)],
  [op.BINFLOAT, (input) => input.float64()],
  [op.SHORT_BINUNICODE, (input) => readText(input, input.uint8())],
  [op.BINUNICODE, (input) => readText(input, input.uint32())],
  [op.BINUNICODE8, (input) => readText(input, input.uint64())],
  [op.SHORT_BINBYTES, (input) => readBytes(input, input.uint8())],
  [op.BINBYTES, (input) => readBytes(input, input.uint32())],
  [op.BINBYTES8, (input) => readBytes(input, input.uint64())],
  [op.BYTEARRAY8, (input) => readBytes(input, input.uint64())],
]);

/** Two's complement, little-endian. */
function readInteger(input: Input, length: number, limits: PickleLimits): number | bigint {
  checkLimit(limits, 'integerBytes', length);
  const digits = Buffer.from(input.take(length)).reverse().toString('hex');
  const value = BigInt.asIntN(length * 8, BigInt(`0x0${digits}`));
  return Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

function readText(input: Input, length: number): string {
  const text = decodeText(input.take(length));
  if (text === undefined) throw input.malformed('a str is not UTF-8');
  return text;
}

/** A copy, so that the value does not keep the input in memory, and does not change with it. */
function readBytes(input: Input, length: number): Buffer {
  return Buffer.from(input.take(length));
}
