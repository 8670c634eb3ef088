// Tells the app that its worker drains, by a channel that it can hear without knowing passfd (diagnostics_channel).
import { channel } from 'node:diagnostics_channel';

const drain = channel('passfd:drain');

export function tellDrain(): void {
  drain.publish({});
}
