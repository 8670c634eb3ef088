// Reconnecting: when a worker tries to reach the next dispatcher, and when it gives up.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { PassfdError } from '../../../src/fd/index.js';
import { Reconnecting, type ReconnectOptions } from '../../../src/worker/reconnecting.js';

const open = new AbortController().signal;

/** Every pause ends at once, as if a dispatcher had made its socket. */
function reconnecting(options: Partial<ReconnectOptions> = {}): Reconnecting {
  return new Reconnecting({
    timeoutMs: 60_000,
    untilChanged: () => Promise.resolve(),
    close: () => undefined,
    ...options,
  });
}

/** Rejects with these errors, one after the other, and then resolves. */
function attempts(errors: Error[]): () => Promise<string> {
  return () => {
    const error = errors.shift();
    return error ? Promise.reject(error) : Promise.resolve('linked');
  };
}

const missing = (): PassfdError => new PassfdError('ERR_ADDRESS_MISSING', 'no socket');

describe('reconnecting', () => {
  it('goes on until an attempt succeeds', async () => {
    const attempt = attempts([missing(), new PassfdError('ERR_EOF', 'it died'), missing()]);
    assert.equal(await reconnecting().run(attempt, () => true, open), 'linked');
  });

  it('ends without an attempt when its time is over', async () => {
    const attempt = attempts([new Error('an attempt')]);
    assert.equal(await reconnecting({ timeoutMs: 0 }).run(attempt, () => true, open), undefined);
  });

  it('ends when no dispatcher is wanted any more', async () => {
    let left = 2;
    const attempt = attempts(Array.from({ length: 100 }, missing));
    assert.equal(await reconnecting().run(attempt, () => left-- > 0, open), undefined);
  });

  it('ends a pause when it is aborted', async () => {
    const closing = new AbortController();
    const forever = reconnecting({ untilChanged: () => new Promise(() => undefined) });
    const running = forever.run(attempts([]), () => !closing.signal.aborted, closing.signal);
    closing.abort();
    assert.equal(await running, undefined);
  });

  it('ends with an error that is not expected', async () => {
    const mistake = new TypeError('a mistake');
    await assert.rejects(
      reconnecting().run(attempts([missing(), mistake]), () => true, open),
      mistake,
    );
  });

  it('warns of each reason of a refusal once', async () => {
    const warnings: string[] = [];
    const onWarning = ({ message }: Error): void => {
      warnings.push(message);
    };
    process.on('warning', onWarning);
    const refused = (reason: string): PassfdError => new PassfdError('ERR_PEER_DENIED', reason);
    const attempt = attempts([refused('one'), refused('one'), missing(), refused('two')]);
    await reconnecting().run(attempt, () => true, open);
    await new Promise(setImmediate);
    process.off('warning', onWarning);
    assert.deepEqual(
      warnings,
      ['one', 'two'].map((reason) => `The dispatcher does not take this worker back yet: ${reason}`),
    );
  });
});
