// The two ways in which connections reach workers. Tests of what holds in both run once for each.

export type AcceptMode = 'direct' | 'hand-off';

/** Direct accept needs Linux. */
export const ACCEPT_MODES: readonly AcceptMode[] =
  process.platform === 'linux' ? ['direct', 'hand-off'] : ['hand-off'];
