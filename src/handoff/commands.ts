// The commands on a control connection and their answers, as both ends know them, and the check of what came.
import * as v from 'valibot';

import { checkJson, parseJson } from './json.js';
import { positive } from './numbers.js';
import { printable, printableLines, shortened } from './peer-text.js';

/** The commands of passfd, by their `type`. Unknown fields come from a later release, and are ignored. */
const messages = {
  status: v.object({ type: v.literal('status') }),
  drain: v.object({ type: v.literal('drain'), worker: positive }),
  /** `without`: addresses that new workers need not serve. */
  restart: v.object({ type: v.literal('restart'), without: v.optional(v.array(v.string())) }),
  takeover: v.object({ type: v.literal('takeover') }),
  stop: v.object({ type: v.literal('stop') }),
};

export type CommandMessage = {
  [Type in keyof typeof messages]: v.InferOutput<(typeof messages)[Type]>;
}[keyof typeof messages];

const NO_COMMAND = 'A command is a JSON object with a type';

const anyCommand = v.looseObject({ type: v.string(NO_COMMAND) }, NO_COMMAND);

/** Any command. The program around the dispatcher may add its own, and checks those itself. */
export type AnyCommandMessage = v.InferOutput<typeof anyCommand>;

/** @throws {PassfdError} `ERR_PROTOCOL`, with a reason that can be sent to the peer */
export function decodeCommand(frame: Buffer): AnyCommandMessage {
  const json = parseJson(frame, 'ERR_PROTOCOL', 'The command');
  const message = checkJson(json, anyCommand, 'ERR_PROTOCOL', 'The command');
  const { type } = message;
  const schema = Object.hasOwn(messages, type) ? messages[type as keyof typeof messages] : undefined;
  return schema ? checkJson(message, schema, 'ERR_PROTOCOL', `The command ${type}`) : message;
}

/** Enough for the last words of a worker that failed, and what they mean for the command. */
const MAX_REASON_LENGTH = 16_384;

const line = v.pipe(v.string(), v.transform(shortened), v.transform(printable));

const answer = v.variant('type', [
  v.object({ type: v.literal('done'), result: v.optional(v.unknown(), null) }),
  v.object({ type: v.literal('progress'), text: line }),
  /** The next generation has taken over: send the command to it. */
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

/** A dispatcher's answer to a command. Its texts are printable. */
export type Answer = v.InferOutput<typeof answer>;

/** @throws {PassfdError} `ERR_PROTOCOL` */
export function decodeAnswer(frame: Buffer): Answer {
  const what = 'The answer of the dispatcher';
  return checkJson(parseJson(frame, 'ERR_PROTOCOL', what), answer, 'ERR_PROTOCOL', what);
}
