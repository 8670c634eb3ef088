// Slot snapshots as they travel in a takeover: JSON, and the descriptors of the output of their processes.
import * as v from 'valibot';

import type { Attachment } from '../dispatcher/internal.js';
import { closeAll, PassfdError, type Descriptor } from '../fd/index.js';
import { count, positive } from '../handoff/index.js';
import type { ProcessSnapshot, SlotSnapshot, OutputEnd } from '../supervisor/internal.js';

/** The beginning of a line, in base64. Its descriptor is the next one of the attachment. */
const output = v.optional(v.string());

const schema = v.union([
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

/** The attachment has the descriptors of the snapshot, not duplicates. */
export function attachmentOf(snapshot: SlotSnapshot): Attachment {
  if (!('pid' in snapshot)) return { data: snapshot, descriptors: [] };
  const { stdout, stderr, ...rest } = snapshot;
  const ends = [stdout, stderr];
  return {
    data: { ...rest, stdout: encode(stdout), stderr: encode(stderr) },
    descriptors: ends.flatMap((end) => (end ? [end.descriptor] : [])),
  };
}

/** Takes over the descriptors. @throws {PassfdError} `ERR_TAKEOVER` when the data is not understood; then they are closed */
export function slotSnapshotIn({ data, descriptors }: Attachment): SlotSnapshot {
  const result = v.safeParse(schema, data);
  if (!result.success) {
    closeAll([...descriptors]);
    throw new PassfdError('ERR_TAKEOVER', `A slot is not understood: ${v.summarize(result.issues)}`);
  }
  if (!('pid' in result.output)) return result.output;
  const { stdout, stderr, identity, ...rest } = result.output;
  const left = [...descriptors];
  const living: ProcessSnapshot = {
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
