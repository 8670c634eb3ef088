// Writes the events of the dispatcher and the supervisor to the log.
import type { Dispatcher, WorkerView } from '../dispatcher/index.js';
import { formatAddress, PassfdError } from '../fd/index.js';
import { describeExit, type ChildView, type Supervisor, type Vacancy } from '../supervisor/index.js';
import { describeLaunched } from '../supervisor/internal.js';
import type { Log } from './log.js';
import { Repeats } from './repeats.js';

/** Lines of one kind about guests that are logged at once. Further ones are summed up. */
const GUESTS_AT_ONCE = 20;

/** @param isGuest whether a worker was not started by this service. Guests can come and go at any rate */
export function logDispatcher(
  log: Log,
  dispatcher: Dispatcher,
  isGuest: (worker: WorkerView) => boolean = () => false,
): void {
  const guests = new Repeats(GUESTS_AT_ONCE);
  const logWorker = (worker: WorkerView, fields: object, message: string): void => {
    const write = (more: number): void => {
      log.info({ ...ofWorker(worker), ...fields, ...(more > 0 && { more }) }, message);
    };
    if (isGuest(worker)) guests.log(message, write);
    else write(0);
  };
  const repeats = new Repeats();
  /** A warning about something that peers can cause at any rate. */
  const warn = (kind: string, fields: object, message: string): void => {
    repeats.log(`${message} ${kind}`, (more) => {
      log.warn(more === 0 ? fields : { ...fields, more }, message);
    });
  };
  dispatcher.on('listening', (address) => {
    log.info({ address: formatAddress(address) }, 'listening');
  });
  dispatcher.on('unlistened', (address) => {
    log.info({ address: formatAddress(address) }, 'no longer listening');
  });
  dispatcher.on('relistened', (address) => {
    log.warn({ address: formatAddress(address) }, 'socket file was removed; listening there anew');
  });
  dispatcher.on('released', (address, { isLate }) => {
    const fields = { address: formatAddress(address) };
    if (isLate) {
      log.warn(
        fields,
        'address closed: no worker served it within --ready-timeout, so clients are refused there; check why the app does not listen',
      );
    } else {
      log.info(fields, 'address closed: its last worker has left');
    }
  });
  dispatcher.on('joined', (worker) => {
    logWorker(worker, { dialect: worker.dialect }, 'worker joined');
  });
  dispatcher.on('ready', (worker) => {
    logWorker(worker, {}, 'worker ready');
  });
  dispatcher.on('returned', (worker) => {
    logWorker(worker, {}, 'worker returned after its dispatcher was killed');
  });
  dispatcher.on('draining', (worker) => {
    logWorker(worker, {}, 'worker draining');
  });
  dispatcher.on('stalled', (worker) => {
    log.warn(
      { ...ofWorker(worker), inFlight: worker.inFlight },
      'worker does not answer, and gets nothing new',
    );
  });
  dispatcher.on('resumed', (worker) => {
    logWorker(worker, {}, 'worker answers again');
  });
  dispatcher.on('left', (worker, { redelivered, reason }) => {
    logWorker(worker, { redelivered, reason }, 'worker left');
  });
  dispatcher.on('starved', (worker) => {
    warn(String(worker.id), ofWorker(worker), 'worker has no free descriptor; raise its limit (ulimit -n)');
  });
  dispatcher.on('peerRefused', (error) => {
    warn(error.code, ofError(error), 'peer refused');
  });
  dispatcher.on('refused', ({ count, reason }) => {
    warn(reason, { count, reason }, 'connections refused');
  });
  dispatcher.on('warned', (error) => {
    const fields = ofError(error);
    // The kind is the code, not the reason: the reason may name a peer or a path, and so differ each time.
    warn(fields.code ?? 'without a code', fields, 'a step failed; the dispatcher keeps serving');
  });
}

export function logSupervisor(log: Log, supervisor: Supervisor): void {
  supervisor.on('started', (child) => {
    log.info(ofChild(child), 'process started');
  });
  supervisor.on('takenOver', (child) => {
    log.info(ofChild(child), 'process taken over');
  });
  supervisor.on('unexpected', (child, { isOurs }) => {
    const why = isOurs ? 'another process has its place' : 'it was started for another service';
    log.warn(
      ofChild(child),
      `process of a killed dispatcher returned, and is not in the journal: ${why}; draining and ending it`,
    );
  });
  // The line of the dispatcher's own `ready` has the rest.
  supervisor.on('ready', (child) => {
    log.debug(ofChild(child), 'process ready');
  });
  supervisor.on('overdue', (child, { hasJoined, launched }) => {
    const what = hasJoined ? 'has not listened' : 'has not joined the dispatcher';
    log.warn(ofChild(child), `process is not ready yet: it ${what}${describeLaunched(launched)}`);
  });
  supervisor.on('died', (child, { exit, restartInMs, lastWords }) => {
    log.error({ ...ofChild(child), restartInMs, lastWords }, `process ${describeExit(exit)}`);
  });
  supervisor.on('stayedAway', (child) => {
    log.warn(ofChild(child), 'process did not return, and is being replaced');
  });
  supervisor.on('restartBegan', ({ of }) => {
    log.info({ workers: of }, 'restarting');
  });
  supervisor.on('replaced', (child, { old }) => {
    log.info({ ...ofChild(child), old }, 'process replaced');
  });
  supervisor.on('restarted', ({ replaced }) => {
    log.info({ workers: replaced }, 'restarted');
  });
  supervisor.on('crashLooped', (child, { exit }) => {
    log.error(ofChild(child), `worker is in a crash loop; last it ${describeExit(exit)}`);
  });
  supervisor.on('outputLost', (child, error) => {
    log.warn({ ...ofChild(child), reason: error.message }, 'output of the process is lost');
  });
  supervisor.on('killed', (child) => {
    log.warn(ofChild(child), 'process killed: it did not exit in time');
  });
  supervisor.on('recycled', (child, { exit }) => {
    log.info(ofChild(child), `process ${describeExit(exit)} after it had served, and is being replaced`);
  });
  supervisor.on('exited', (child, { exit, vacancy }) => {
    const what = exit ? `process ${describeExit(exit)}` : 'process not started again';
    log.info(ofChild(child), vacancy ? `${what} ${whyVacant[vacancy]}` : what);
  });
  supervisor.on('finished', () => {
    log.info('all processes have finished without listening');
  });
}

const whyVacant: Record<Vacancy, string> = {
  finished: 'and never listened, so it has finished; passfd restart starts another one',
  drained: 'after it was drained by hand; passfd restart starts another one',
};

export function ofError(error: unknown): { code?: string; reason: string } {
  return error instanceof PassfdError
    ? { code: error.code, reason: error.message }
    : { reason: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}

function ofWorker({ id, pid }: WorkerView): { worker: number; pid: number } {
  return { worker: id, pid };
}

/** Not `worker`: a child that joins by the control socket has another id there than its slot. */
function ofChild({ id, pid }: ChildView): { child: number; pid: number | undefined } {
  return { child: id, pid };
}
