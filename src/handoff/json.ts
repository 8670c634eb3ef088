// JSON from a peer: parsed, and checked against a schema. An error names what is wrong, and can be sent to the peer.
import * as v from 'valibot';

import { PassfdError, type ErrorCode } from '../fd/index.js';
import { shortened } from './peer-text.js';

/** @throws {PassfdError} `code`: `what` is not JSON */
export function parseJson(bytes: Buffer, code: ErrorCode, what: string): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch (cause) {
    throw new PassfdError(code, `${what} is not JSON`, { cause });
  }
}

/** @throws {PassfdError} `code`: `what` is not understood, and why */
export function checkJson<Schema extends v.GenericSchema>(
  json: unknown,
  schema: Schema,
  code: ErrorCode,
  what: string,
): v.InferOutput<Schema> {
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  throw new PassfdError(code, shortened(`${what} is not understood: ${v.summarize(result.issues)}`));
}
