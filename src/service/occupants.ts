// Who is in each slot of the supervisor, as one generation tells the next: JSON, and the descriptors of their output.
import * as v from 'valibot';

import type { Attachment } from '../dispatcher/internal.js';
import { closeAll, PassfdError, type Descriptor } from '../fd/index.js';
import type { Living, Occupant, OutputEnd } from '../supervisor/index.js';

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const positive = v.pipe(count, v.minValue(1));

/** What was read and not yet written, in base64; its descriptor is the next one that came with it. */
const output = v.optional(v.string());

const occupant = v.union([
  v.object({
    id: positive,
    state: v.literal('finished'),
    wasDrained: v.optional(v.boolean()),
    hasServed: v.optional(v.boolean()),
  }),
  v.object({
    id: positive,
    state: v.literal('waiting'),
    restartInMs: count,
    history: v.object({ deaths: count, earlyDeaths: count }),
    hasServed: v.optional(v.boolean()),
  }),
  v.object({
    id: positive,
    pid: positive,
    identity: v.optional(v.string()),
    state: v.picklist(['starting', 'ready', 'awaited', 'leaving']),
    hasServed: v.optional(v.boolean()),
    stdout: output,
    stderr: output,
  }),
]);

/** Whoever owns the occupant's descriptors owns these, which are the same. */
export function attachmentOf(occupant: Occupant): Attachment {
  if (!('pid' in occupant)) return { data: occupant, descriptors: [] };
  const { stdout, stderr, ...rest } = occupant;
  const ends = [stdout, stderr];
  return {
    data: { ...rest, stdout: encode(stdout), stderr: encode(stderr) },
    descriptors: ends.flatMap((end) => (end ? [end.descriptor] : [])),
  };
}

/** Takes over the descriptors. @throws {PassfdError} `ERR_TAKEOVER` when it is not understood; then they are closed */
export function occupantIn({ data, descriptors }: Attachment): Occupant {
  const result = v.safeParse(occupant, data);
  if (!result.success) {
    closeAll([...descriptors]);
    throw new PassfdError('ERR_TAKEOVER', `A slot is not understood: ${v.summarize(result.issues)}`);
  }
  if (!('pid' in result.output)) return result.output;
  const { stdout, stderr, identity, ...rest } = result.output;
  const left = [...descriptors];
  const living: Living = {
    ...rest,
    identity,
    ...decode('stdout', stdout, left),
    ...decode('stderr', stderr, left),
  };
  closeAll(left);
  return living;
}

function encode(end: OutputEnd | undefined): string | undefined {
  return end && Buffer.from(end.partial).toString('base64');
}

function decode(
  name: 'stdout' | 'stderr',
  partial: string | undefined,
  descriptors: Descriptor[],
): Partial<Record<'stdout' | 'stderr', OutputEnd>> {
  if (partial === undefined) return {};
  const descriptor = descriptors.shift();
  return descriptor ? { [name]: { descriptor, partial: Buffer.from(partial, 'base64') } } : {};
}
