// What the tests look at in an error.
import assert from 'node:assert/strict';

import { PassfdError, type ErrorCode } from '../../src/fd/index.js';

/** For `assert.rejects`: a PassfdError with this code, whose cause is the system error of this name. */
export function causedBy(code: ErrorCode, name: string, message = /./): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof PassfdError, String(error));
    const cause = error.cause as NodeJS.ErrnoException | undefined;
    assert.deepEqual([error.code, cause?.code], [code, name]);
    assert.ok(cause instanceof Error && typeof cause.errno === 'number' && typeof cause.syscall === 'string');
    assert.match(error.message, message);
    return true;
  };
}

/** For `assert.throws` and `assert.rejects`: a PassfdError with this code. */
export function failsWith(code: ErrorCode, message = /./): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof PassfdError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  };
}
