// Split sessions: notices when the requests of one Socket.IO client come to several workers, as happens with long polling.
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { IncomingMessage, ServerResponse } from 'node:http';

const ANSWERED = 'http.server.response.finish';

/** The answer of Engine.IO, which Socket.IO is built on, to a session that it does not know. */
const BAD_REQUEST = 400;

/** Calls back once: at the first answer of this process that refuses an unknown session. */
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
 * Whether the request belongs to a session: `/socket.io/?EIO=4&transport=polling&sid=...`. A regular expression would not
 * do: a client could send a URL that takes it seconds.
 */
function isOfSession(url = ''): boolean {
  const query = new URLSearchParams(url.split('?', 2)[1]);
  return query.has('EIO') && query.has('sid') && query.get('transport') === 'polling';
}
