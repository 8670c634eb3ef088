// Slot snapshots on their way to the next generation: they arrive unchanged, with their descriptors.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { attachmentOf, slotSnapshotIn } from '../../../src/service/slot-snapshots.js';
import type { Attachment } from '../../../src/dispatcher/internal.js';
import type { ProcessSnapshot, SlotSnapshot, OutputEnd } from '../../../src/supervisor/internal.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { openFile, takeTexts } from '../../support/files.js';

const living: ProcessSnapshot = { id: 2, pid: 4711, identity: '815', state: 'ready' };

function end(text: string, partial: string): OutputEnd {
  return { descriptor: openFile(text), partial: Buffer.from(partial) };
}

/** The snapshot as it arrives. */
function sent(snapshot: SlotSnapshot): SlotSnapshot {
  const { data, descriptors } = attachmentOf(snapshot);
  return slotSnapshotIn({ data: JSON.parse(JSON.stringify(data)), descriptors });
}

describe('a slot snapshot that is handed over', () => {
  it(
    'is the same at the other end, in each state',
    keepsDescriptors(() => {
      for (const state of ['starting', 'ready', 'awaited', 'leaving'] as const) {
        assert.deepEqual(sent({ ...living, state }), { ...living, state });
      }
      assert.deepEqual(sent({ id: 1, state: 'finished' }), { id: 1, state: 'finished' });
      const drained: SlotSnapshot = { id: 1, state: 'finished', wasDrained: true, hasServed: true };
      assert.deepEqual(sent(drained), drained);
      const history = { deaths: 7, earlyDeaths: 4 };
      const waiting: SlotSnapshot = { id: 1, state: 'waiting', restartInMs: 800, history };
      assert.deepEqual(sent(waiting), waiting);
      assert.deepEqual(sent({ ...living, identity: undefined }), { ...living, identity: undefined });
    }),
  );

  for (const ends of [['stdout', 'stderr'], ['stdout'], ['stderr']] as const) {
    it(
      `has its output there by the right names, and the line that has begun: ${ends.join(' and ')}`,
      keepsDescriptors(() => {
        const outputs = Object.fromEntries(ends.map((name) => [name, end(name, `${name} \0\xff`)]));
        const snapshot = sent({ ...living, ...outputs });
        assert.ok('pid' in snapshot);
        for (const name of ['stdout', 'stderr'] as const) {
          const output: OutputEnd | undefined = snapshot[name];
          assert.equal(output !== undefined, (ends as readonly string[]).includes(name));
          if (!output) continue;
          assert.deepEqual(takeTexts([output.descriptor]), [name]);
          assert.equal(Buffer.from(output.partial).toString(), `${name} \0\xff`);
        }
      }),
    );
  }

  const wrong: readonly (readonly [what: string, data: unknown])[] = [
    ['says nothing that is known', 'everything'],
    ['is in a state that there is not', { ...living, state: 'confused' }],
    ['has no process', { id: 2, state: 'ready' }],
  ];
  for (const [what, data] of wrong) {
    it(
      `and ${what} is refused, and its descriptors are closed`,
      keepsDescriptors(() => {
        const attachment: Attachment = { data, descriptors: [openFile('x')] };
        assert.throws(() => slotSnapshotIn(attachment), failsWith('ERR_TAKEOVER', /not understood/));
      }),
    );
  }

  it(
    'keeps no descriptor beyond those of its output',
    keepsDescriptors(() => {
      const { data } = attachmentOf(living);
      slotSnapshotIn({ data, descriptors: [openFile('x'), openFile('y')] });
    }),
  );
});
