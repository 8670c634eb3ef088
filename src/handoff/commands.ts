// What a control connection asks for, as both ends know it: each command's message, and the check of what came.
import * as v from 'valibot';

import { PassfdError } from '../fd/index.js';
import { positive } from './numbers.js';
import { shortened } from './reason.js';

/** The commands of passfd itself, by their `type`. Fields that are not known here come from a later release. */
const messages = {
  status: v.object({ type: v.literal('status') }),
  drain: v.object({ type: v.literal('drain'), worker: positive }),
  restart: v.object({ type: v.literal('restart') }),
  takeover: v.object({ type: v.literal('takeover') }),
  stop: v.object({ type: v.literal('stop') }),
};

export type CommandMessage = {
  [Type in keyof typeof messages]: v.InferOutput<(typeof messages)[Type]>;
}[keyof typeof messages];

const anyCommand = v.looseObject({ type: v.string() });

/** A command that the program of the dispatcher has added is checked by that program. */
export type AnyCommandMessage = v.InferOutput<typeof anyCommand>;

/** @throws {PassfdError} `ERR_PROTOCOL`, with a reason that the peer can be told */
export function decodeCommand(frame: Buffer): AnyCommandMessage {
  const message = checked(anyCommand, parse(frame), 'A command is a JSON object with a type');
  const { type } = message;
  const schema = Object.hasOwn(messages, type) ? messages[type as keyof typeof messages] : undefined;
  return schema ? checked(schema, message, `The command ${type} is not understood`) : message;
}

function parse(frame: Buffer): unknown {
  try {
    return JSON.parse(frame.toString());
  } catch (cause) {
    throw new PassfdError('ERR_PROTOCOL', 'A command is a JSON object with a type, and this is no JSON', {
      cause,
    });
  }
}

function checked<Schema extends v.GenericSchema>(
  schema: Schema,
  message: unknown,
  rule: string,
): v.InferOutput<Schema> {
  const result = v.safeParse(schema, message);
  if (result.success) return result.output;
  throw new PassfdError('ERR_PROTOCOL', shortened(`${rule}: ${v.summarize(result.issues)}`));
}
