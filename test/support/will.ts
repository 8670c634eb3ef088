// Whether a process can have a last will here.
import { LastWill } from '../../src/fd/internal.js';

/** Why tests that need one cannot run here, or false when they can. */
export function withoutWill(): string | false {
  using will = LastWill.open();
  return will ? false : 'this system has no wills';
}
