// The steps of a hand-off, a takeover and a recovery, told as they happen: for tests that interrupt each, and for tracing.
import { channel } from 'node:diagnostics_channel';

/**
 * Where a worker is in the protocol, or a dispatcher in a takeover or in a start after a crash. Subscribe with
 * `diagnostics_channel.subscribe('passfd:step', ...)`; the message is one of these. It costs nothing while nobody does.
 */
export type Step =
  | 'hello-sent'
  | 'welcomed'
  | 'listen-sent'
  | 'listening'
  | 'ready-sent'
  | 'received'
  | 'adopted'
  | 'refused'
  | 'delivered'
  | 'closed-sent'
  | 'unlisten-sent'
  | 'unlistened'
  | 'drain-received'
  // The generation that hands over.
  | 'successor-started'
  | 'frozen'
  | 'handed-over'
  | 'go-sent'
  // The generation that takes over.
  | 'hello-said'
  | 'taken-over'
  | 'ready-said'
  | 'started'
  // A dispatcher that starts, and takes back the workers of one that was killed. Some come once for each worker.
  | 'wills-settled'
  | 'journal-locked'
  | 'journal-written'
  | 'control-opened'
  | 'socket-returned'
  | 'worker-returned'
  | 'prepared'
  | 'worker-given-up'
  | 'worker-started'
  | 'complete';

const steps = channel('passfd:step');

export function traceStep(step: Step): void {
  if (steps.hasSubscribers) steps.publish(step);
}
