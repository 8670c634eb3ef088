// Split sessions: notices that requests of one Socket.IO client, which long polling sends one by one, meet several workers.
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { IncomingMessage, ServerResponse } from 'node:http';

const ANSWERED = 'http.server.response.finish';

/** What Engine.IO, below Socket.IO, answers to a session that it does not know. */
const BAD_REQUEST = 400;

/** A request of an existing session: `/socket.io/?EIO=4&transport=polling&sid=...`. */
const OF_A_SESSION = /[?&]EIO=\d+&(?:.*&)?transport=polling&(?:.*&)?sid=/;

/** Calls back at the first answer of this process that says so, and looks at no further one. */
export function onSplitSession(callback: () => void): void {
  const look = (message: unknown): void => {
    const { request, response } = message as { request: IncomingMessage; response: ServerResponse };
    if (response.statusCode !== BAD_REQUEST || !OF_A_SESSION.test(request.url ?? '')) return;
    unsubscribe(ANSWERED, look);
    callback();
  };
  subscribe(ANSWERED, look);
}
