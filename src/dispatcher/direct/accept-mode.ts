// AcceptMode: whether workers accept connections by themselves, or the dispatcher accepts and hands them off.
import { platform } from 'node:process';

import { PassfdError } from '../../fd/index.js';
import type { DispatcherOptions } from '../options.js';

/**
 * - `direct`: workers accept from the shared listening sockets. The dispatcher governs which of them do, and hands off only
 *   to workers that cannot.
 * - `hand-off`: the dispatcher accepts, and a policy chooses the worker of each connection.
 * - `auto`: direct, unless an option needs hand-off or the system has no direct accept.
 */
export const acceptModes = ['auto', 'direct', 'hand-off'] as const;
export type AcceptMode = (typeof acceptModes)[number];

/** What `auto` means where both are possible. */
const AUTO: Exclude<AcceptMode, 'auto'> = 'hand-off';

/** Workers show what they accept in a sealed memfd, which only Linux has. */
export const canAcceptDirectly: boolean = platform === 'linux';

/**
 * Which mode the options ask for.
 * @throws {TypeError} when `direct` contradicts another option
 * @throws {PassfdError} `ERR_UNSUPPORTED` when this system has no direct accept
 */
export function acceptModeOf(
  { accept = 'auto', policy, overload }: Pick<DispatcherOptions, 'accept' | 'policy' | 'overload'>,
  isPossible: boolean = canAcceptDirectly,
): Exclude<AcceptMode, 'auto'> {
  if (!acceptModes.includes(accept)) {
    throw new TypeError(`accept must be one of ${acceptModes.join(', ')}, not ${accept}`);
  }
  const needsHandOff = policy !== undefined || overload === 'refuse';
  if (accept === 'auto') return needsHandOff || !isPossible ? 'hand-off' : AUTO;
  if (accept === 'hand-off') return accept;
  if (policy !== undefined) {
    throw new TypeError(
      "accept: 'direct' has no policy, because workers accept by themselves: leave the policy out, or use accept: 'hand-off'",
    );
  }
  if (overload === 'refuse') {
    throw new TypeError(
      "accept: 'direct' leaves clients in the kernel's backlog: leave overload: 'refuse' out, or use accept: 'hand-off'",
    );
  }
  if (!isPossible) {
    throw new PassfdError('ERR_UNSUPPORTED', "accept: 'direct' needs Linux: use accept: 'hand-off'");
  }
  return accept;
}
