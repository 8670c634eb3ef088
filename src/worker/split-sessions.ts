// Split sessions: notices that requests of one Socket.IO client, which long polling sends one by one, meet several workers.
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { IncomingMessage, ServerResponse } from 'node:http';

const ANSWERED = 'http.server.response.finish';

/** What Engine.IO, below Socket.IO, answers to a session that it does not know. */
const BAD_REQUEST = 400;

/** Calls back at the first answer of this process that says so, and looks at no further one. */
export function onSplitSession(callback: () => void): void {
  const look = (message: unknown): void => {
    const { request, response } = message as { request: IncomingMessage; response: ServerResponse };
    if (response.statusCode !== BAD_REQUEST || !isOfSession(request.url)) return;
    unsubscribe(ANSWERED, look);
    callback();
  };
  subscribe(ANSWERED, look);
}

/**
 * A request of an existing session: `/socket.io/?EIO=4&transport=polling&sid=...`. Not by a regular expression: a client can
 * write an address at which one takes seconds.
 */
function isOfSession(url = ''): boolean {
  const query = new URLSearchParams(url.split('?', 2)[1]);
  return query.has('EIO') && query.has('sid') && query.get('transport') === 'polling';
}
