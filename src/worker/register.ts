// For `node --import passfd/register app.js`: an unmodified app becomes a worker of the dispatcher that started it.
import process from 'node:process';
import { inspect } from 'node:util';
import { isMainThread } from 'node:worker_threads';

import type { Worker } from './worker.js';

/** The dispatcher may be busy, and learn late that a worker is drained. */
const SIGNAL_TIMEOUT_MS = 5_000;

/** What Node calls the handle of a server that listens. */
const SERVER_HANDLES = new Set(['TCPServerWrap', 'PipeServerWrap']);

const drainTimeout = process.env['PASSFD_DRAIN_TIMEOUT'];
delete process.env['PASSFD_DRAIN_TIMEOUT'];
const policy = process.env['PASSFD_POLICY'];
delete process.env['PASSFD_POLICY'];

// What the app starts with `fork` or `cluster` gets these arguments too: it starts as if passfd were not here.
const ownIndex = process.execArgv.indexOf(import.meta.url);
if (process.execArgv[ownIndex - 1] === '--import') process.execArgv.splice(ownIndex - 1, 2);

// A thread inherits the preload all the same, and has nothing to do here; nor has a child that was given it in another way.
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
    // Only now: a thread need not load them.
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
    // At once: the process may end in this turn.
    worker.on('disconnected', (reason) => {
      isCutOff = reason !== undefined;
      if (reason) tell(`this process leaves its dispatcher: ${reason.message}`);
    });
    worker.once('abandoned', () => {
      if (!isCutOff) tell('no dispatcher any more: this process finishes what it has open, and ends');
      endWhenDone(worker, Number(drainTimeout ?? DEFAULT_DRAIN_TIMEOUT_MS), KILL_AFTER_MS);
    });
    if (isChild) worker.once('drained', awaitSignal);
    tellLastWords(worker);
    if (policy !== undefined && policy !== 'client-ip') await watchForSplitSessions();
    warnOfEarlyServer();
    interceptListen(worker);
  } catch (error) {
    tell(`this process could not join its dispatcher: ${(error as Error).message}`);
    process.exit(1);
  } finally {
    delete process.env['PASSFD_AUTHKEY'];
    delete process.env['PASSFD_TRUST_UIDS'];
    delete process.env['PASSFD_ORPHAN_TIMEOUT'];
  }
}

/** A preload of `--require` runs before this one, and one in `NODE_OPTIONS` does. */
function warnOfEarlyServer(): void {
  if (!process.getActiveResourcesInfo().some((name) => SERVER_HANDLES.has(name))) return;
  tell(
    'a server listens already, by a preload (--require, or NODE_OPTIONS) that ran before passfd: this process listens ' +
      'there by itself, and the workers do not share it. Let the app import that module, or listen later',
  );
}

/** Whoever has started this one may have forgotten the dispatcher, or named another path. */
async function joinWhenThere(join: typeof import('./join.js').join): Promise<Worker> {
  try {
    return await join();
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code !== 'ERR_ADDRESS_MISSING' && code !== 'ERR_CONNECTION_REFUSED') throw error;
    tell(`no dispatcher at ${process.env['PASSFD_CONTROL'] ?? 'its control path'} yet: waiting for one`);
    return join({ waitForDispatcher: true });
  }
}

/** Where each request of a client may come to another worker. One worker of a service looks, so that it is said once. */
async function watchForSplitSessions(): Promise<void> {
  if (process.env['PASSFD_WORKER_ID'] !== '1') return;
  const { onSplitSession } = await import('./split-sessions.js');
  onSplitSession(() => {
    tell(
      `a Socket.IO client was lost: its long polling came to a worker that does not know it. With --policy client-ip it stays with one worker; or let clients use transports: ['websocket']`,
    );
  });
}

function tell(what: string): void {
  process.stderr.write(`passfd: ${what}\n`);
}

/**
 * The supervisor sends SIGTERM when it knows that its worker is drained. An app that handles it, and that nothing keeps
 * alive any more, would have ended by then. Nothing comes behind a drain that somebody asked for by hand.
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

/** What was thrown is why the process ends only if that happens in the same turn: the app may handle it and go on. */
function tellLastWords(worker: Worker): void {
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
 * Whoever started this process is gone and does not come back, and nobody else will end it: not a server that it has by
 * itself, nor a timer. By the signals that its supervisor would have sent, so that the app can do what it does at its end.
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
