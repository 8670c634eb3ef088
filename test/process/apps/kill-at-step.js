// For `node --import`: a worker in slot 1 kills itself when it reaches a step of the hand-off, once in a run.
import { subscribe } from 'node:diagnostics_channel';
import { closeSync, openSync } from 'node:fs';

const { PASSFD_WORKER_ID: slot, KILL_AT_STEP: fatal, KILL_MARK: mark } = process.env;

if (slot === '1' && fatal !== undefined) {
  subscribe('passfd:step', (step) => {
    if (step === fatal && isFirst()) process.kill(process.pid, 'SIGKILL');
  });
}

function isFirst() {
  try {
    closeSync(openSync(mark, 'wx'));
    return true;
  } catch {
    return false;
  }
}
