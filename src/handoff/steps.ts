// Steps of a hand-off, a takeover and a recovery, published as they happen: for tracing, and for tests that interrupt each.
import { channel } from 'node:diagnostics_channel';

/**
 * A step of a worker in the protocol, or of a dispatcher in a takeover or in a start after a crash. Subscribe with
 * `diagnostics_channel.subscribe('passfd:step', ...)`; the message is one of these. It is free without a subscriber.
 */
export type Step =
  | 'hello-sent'
  | 'welcomed'
  | 'listen-sent'
  | 'listening'
  | 'ready-sent'
  | 'board-received'
  | 'watching'
  | 'accepted'
  | 'received'
  | 'adopted'
  | 'refused'
  | 'delivered'
  | 'closed-sent'
  | 'unlisten-sent'
  | 'unlistened'
  | 'drain-received'
  // In the generation that hands over.
  | 'successor-started'
  | 'frozen'
  | 'handed-over'
  | 'go-sent'
  // In the generation that takes over.
  | 'hello-said'
  | 'taken-over'
  | 'ready-said'
  | 'started'
  // In a dispatcher that takes back the workers of a killed one. Some of these come once for each worker.
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
