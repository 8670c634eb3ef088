// What a control connection asks for and what it is answered, as both ends know it, and the check of what came.
import * as v from 'valibot';

import { PassfdError } from '../fd/index.js';
import { positive } from './numbers.js';
import { printable, printableLines } from './printable.js';
import { shortened } from './reason.js';

/** The commands of passfd itself, by their `type`. Fields that are not known here come from a later release. */
const messages = {
  status: v.object({ type: v.literal('status') }),
  drain: v.object({ type: v.literal('drain'), worker: positive }),
  /** Without: addresses that new workers need not serve. */
  restart: v.object({ type: v.literal('restart'), without: v.optional(v.array(v.string())) }),
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

/** Enough for the last words of a worker that failed, and why that matters. */
const MAX_REASON_LENGTH = 16_384;

const line = v.pipe(v.string(), v.transform(shortened), v.transform(printable));

const answer = v.variant('type', [
  v.object({ type: v.literal('done'), result: v.optional(v.unknown(), null) }),
  v.object({ type: v.literal('progress'), text: line }),
  /** Another generation has taken over, and is to be asked. */
  v.object({ type: v.literal('again') }),
  v.object({
    type: v.picklist(['failed', 'farewell']),
    code: line,
    reason: v.pipe(
      v.string(),
      v.transform((reason) => reason.slice(0, MAX_REASON_LENGTH)),
      v.transform(printableLines),
    ),
  }),
]);

/** What a dispatcher says to a command. Its texts are printable. */
export type Answer = v.InferOutput<typeof answer>;

/** @throws {PassfdError} `ERR_PROTOCOL` */
export function decodeAnswer(frame: Buffer): Answer {
  return checked(answer, parse(frame), 'The answer of the dispatcher is not understood');
}

function parse(frame: Buffer): unknown {
  try {
    return JSON.parse(frame.toString());
  } catch (cause) {
    throw new PassfdError('ERR_PROTOCOL', 'What the other end said is not JSON', { cause });
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
