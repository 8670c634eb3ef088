// Split sessions: which answers show that the requests of a Socket.IO client come to several workers.
import assert from 'node:assert/strict';
import { channel } from 'node:diagnostics_channel';
import { describe, it } from 'node:test';

import { onSplitSession } from '../../../src/worker/split-sessions.js';

const answered = channel('http.server.response.finish');

/** The longest request line (`--max-http-header-size`). */
const MAX_URL_LENGTH = 16_384;

/** Far more time than it takes to look at one answer, also on a busy machine. */
const LONG_MS = 1_000;

function answer(url: string, statusCode: number): void {
  answered.publish({ request: { url }, response: { statusCode } });
}

describe('a request that is answered with "bad request"', () => {
  it('is reported once when it belongs to a session of long polling', () => {
    let told = 0;
    onSplitSession(() => told++);
    answer('/socket.io/?EIO=4&transport=polling&sid=abc', 200);
    answer('/socket.io/?EIO=4&transport=polling', 400);
    answer('/socket.io/?EIO=4&transport=websocket&sid=abc', 400);
    answer('/search?transport=polling&sid=abc', 400);
    answer('/', 400);
    assert.equal(told, 0);
    answer('/socket.io/?EIO=4&transport=polling&t=1&sid=abc', 400);
    answer('/socket.io/?EIO=4&transport=polling&t=2&sid=abc', 400);
    assert.equal(told, 1);
  });

  it('costs the worker no time, whatever its address is', () => {
    let told = 0;
    onSplitSession(() => told++);
    const hostile = `/%?${'EIO=4&transport=polling&'.repeat(MAX_URL_LENGTH)}`.slice(0, MAX_URL_LENGTH);
    const begin = performance.now();
    answer(hostile, 400);
    assert.ok(performance.now() - begin < LONG_MS);
    answer('/socket.io/?EIO=4&transport=polling&sid=abc', 400);
    assert.equal(told, 1);
  });
});
