// For `node --import`: a worker in slot 1 sends itself a signal when it reaches a step of the hand-off, once in a run.
import { subscribe } from 'node:diagnostics_channel';
import { linkSync, writeFileSync } from 'node:fs';

const { PASSFD_WORKER_ID: slot, SIGNAL: signal, AT_STEP: wanted, SIGNAL_MARK: mark } = process.env;

if (slot === '1' && wanted !== undefined) {
  subscribe('passfd:step', (step) => {
    if (step === wanted && isFirst()) process.kill(process.pid, signal);
  });
}

/** Writes its process id in one step: a test waits for the file, and reads it. */
function isFirst() {
  const draft = `${mark}.${process.pid}`;
  try {
    writeFileSync(draft, String(process.pid));
    linkSync(draft, mark);
    return true;
  } catch {
    return false;
  }
}
