// Register: `node --import passfd/register app.js` makes an unmodified app a worker of the dispatcher that started it.
import process from 'node:process';
import { inspect } from 'node:util';
import { isMainThread } from 'node:worker_threads';

import type { Worker } from './worker.js';

/** How long a drained worker waits for SIGTERM. A busy dispatcher learns late that the worker is drained. */
const SIGNAL_TIMEOUT_MS = 5_000;

/** Node's names of the handles of listening servers. */
const SERVER_HANDLES = new Set(['TCPServerWrap', 'PipeServerWrap']);

const drainTimeout = process.env['PASSFD_DRAIN_TIMEOUT'];
delete process.env['PASSFD_DRAIN_TIMEOUT'];
const policy = process.env['PASSFD_POLICY'];
delete process.env['PASSFD_POLICY'];

// Processes that the app starts with `fork` or `cluster` get these arguments too. They must start without passfd.
const ownIndex = process.execArgv.indexOf(import.meta.url);
if (process.execArgv[ownIndex - 1] === '--import') process.execArgv.splice(ownIndex - 1, 2);

// A thread still inherits the preload, and a child can get it in another way. Neither becomes a worker.
if (
  isMainThread &&
  (process.env['PASSFD_CHANNEL_FD'] !== undefined || process.env['PASSFD_JOIN'] !== undefined)
) {
  await becomeWorker();
}

async function becomeWorker(): Promise<void> {
  const isChild = process.env['PASSFD_CHANNEL_FD'] !== undefined;
  const isJoining = process.env['PASSFD_JOIN'] !== undefined;
  delete process.env['PASSFD_JOIN'];
  try {
    // Imported here, so that a thread does not load them.
    const [{ join }, { interceptListen }, { DEFAULT_DRAIN_TIMEOUT_MS, KILL_AFTER_MS }] = await Promise.all([
      import('./join.js'),
      import('./intercept.js'),
      import('../handoff/index.js'),
    ]);
    const worker = isJoining ? await joinWhenThere(join) : await join();
    worker.on('error', (error) => {
      process.emitWarning(error.message, { type: 'PassfdWarning' });
    });
    let isCutOff = false;
    // Written at once: the process may end in this turn.
    worker.on('disconnected', (reason) => {
      isCutOff = reason !== undefined;
      if (reason) log(`the dispatcher disconnected this process: ${reason.message}`);
    });
    worker.once('abandoned', () => {
      if (!isCutOff) log('no dispatcher any more: this process drains, then exits');
      endWhenDone(worker, Number(drainTimeout ?? DEFAULT_DRAIN_TIMEOUT_MS), KILL_AFTER_MS);
    });
    if (isChild) worker.once('drained', awaitSignal);
    sendLastWords(worker);
    if (policy !== undefined && policy !== 'client-ip') await watchForSplitSessions();
    warnOfEarlyServer();
    interceptListen(worker);
  } catch (error) {
    log(`this process could not join its dispatcher: ${(error as Error).message}`);
    process.exit(1);
  } finally {
    delete process.env['PASSFD_AUTHKEY'];
    delete process.env['PASSFD_TRUST_UIDS'];
    delete process.env['PASSFD_ORPHAN_TIMEOUT'];
  }
}

/** A preload of `--require` or `NODE_OPTIONS` runs before this one, and its servers are not intercepted. */
function warnOfEarlyServer(): void {
  if (!process.getActiveResourcesInfo().some((name) => SERVER_HANDLES.has(name))) return;
  log(
    'a preload (--require or NODE_OPTIONS) listened before passfd was loaded: the workers do not share its address. ' +
      'Import that module in the app instead, or let it listen later',
  );
}

/** Joins, and waits for a dispatcher when none is there. A message says so, since the path may be wrong. */
async function joinWhenThere(join: typeof import('./join.js').join): Promise<Worker> {
  try {
    return await join();
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code !== 'ERR_ADDRESS_MISSING' && code !== 'ERR_CONNECTION_REFUSED') throw error;
    log(`no dispatcher at ${process.env['PASSFD_CONTROL'] ?? 'its control path'} yet: waiting for one`);
    return join({ waitForDispatcher: true });
  }
}

/** Warns when requests of one client come to several workers. Only worker 1 looks, so that a service warns once. */
async function watchForSplitSessions(): Promise<void> {
  if (process.env['PASSFD_WORKER_ID'] !== '1') return;
  const { onSplitSession } = await import('./split-sessions.js');
  onSplitSession(() => {
    log(
      `a Socket.IO session was lost: a long-polling request came to a worker that does not know the session. Use --policy client-ip, or transports: ['websocket'] in the clients`,
    );
  });
}

function log(message: string): void {
  process.stderr.write(`passfd: ${message}\n`);
}

/**
 * Keeps a drained process alive until the supervisor's SIGTERM, when its app handles that signal. Without this the process
 * could exit before. After a drain by `passfd drain`, no signal comes, so there is a time limit.
 */
function awaitSignal(): void {
  if (process.listenerCount('SIGTERM') === 0) return;
  const onSignal = (): void => {
    clearTimeout(timer);
  };
  const timer = setTimeout(() => {
    process.off('SIGTERM', onSignal);
  }, SIGNAL_TIMEOUT_MS);
  process.once('SIGTERM', onSignal);
}

/** Sends an uncaught exception when the process ends in the same turn. Later, the app has handled it and goes on. */
function sendLastWords(worker: Worker): void {
  let words: string | undefined;
  process.on('uncaughtExceptionMonitor', (thrown: unknown) => {
    words = inspect(thrown, { customInspect: false });
    setImmediate(() => {
      words = undefined;
    });
  });
  process.on('exit', () => {
    if (words !== undefined) worker.sayLastWords(words);
  });
}

/**
 * Ends this process when it is drained: its supervisor is gone, and a timer or a server of its own could keep it alive for
 * ever. It sends itself the signals that its supervisor would have sent, so that the app can clean up.
 */
function endWhenDone(worker: Worker, drainTimeoutMs: number, killAfterMs: number): void {
  const end = (): void => {
    clearTimeout(timer);
    process.kill(process.pid, 'SIGTERM');
    setTimeout(() => {
      process.kill(process.pid, 'SIGKILL');
    }, killAfterMs).unref();
  };
  const timer = setTimeout(end, drainTimeoutMs);
  worker.drain().then(end, end);
}
