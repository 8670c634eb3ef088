// Who is in each slot of the supervisor, as one generation tells the next: JSON, and the descriptors of their output.
import * as z from 'zod/mini';

import type { Attachment } from '../dispatcher/index.js';
import { closeAll, PassfdError, type Descriptor } from '../fd/index.js';
import type { Living, Occupant, OutputEnd } from '../supervisor/index.js';

const positive = z.int().check(z.minimum(1));
const count = z.int().check(z.minimum(0));

/** What was read and not yet written, in base64; its descriptor is the next one that came with it. */
const output = z.optional(z.string());

const occupant = z.union([
  z.object({ id: positive, state: z.literal('finished') }),
  z.object({
    id: positive,
    state: z.literal('waiting'),
    restartInMs: count,
    history: z.object({ deaths: count, earlyDeaths: count }),
  }),
  z.object({
    id: positive,
    pid: positive,
    identity: z.optional(z.string()),
    state: z.enum(['starting', 'ready', 'awaited', 'leaving']),
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
  const result = z.safeParse(occupant, data);
  if (!result.success) {
    closeAll([...descriptors]);
    throw new PassfdError('ERR_TAKEOVER', `A slot is not understood: ${z.prettifyError(result.error)}`);
  }
  if (!('pid' in result.data)) return result.data;
  const { stdout, stderr, identity, ...rest } = result.data;
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
