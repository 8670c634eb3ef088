// The steps of a hand-off, told as they happen: for tests that interrupt each of them, and for tracing.
import { channel } from 'node:diagnostics_channel';

/**
 * Where a worker is in the protocol, or a generation of the dispatcher in a takeover. Subscribe with
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
  | 'started';

const steps = channel('passfd:step');

export function tellStep(step: Step): void {
  if (steps.hasSubscribers) steps.publish(step);
}
