// Publishes a drain on diagnostics_channel, so that an app that knows nothing of passfd can act on it.
import { channel } from 'node:diagnostics_channel';

const drain = channel('passfd:drain');

export function publishDrain(): void {
  drain.publish({});
}
