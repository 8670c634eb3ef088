// The reason that a peer is told, and that the log has, of what is wrong with what it said.

/** Enough to find the mistake; the text may be as long as all that the peer said, and longer. */
const MAX_REASON_LENGTH = 500;

/** The beginning of a text that may be long. */
export function shortened(reason: string): string {
  return reason.length <= MAX_REASON_LENGTH ? reason : `${reason.slice(0, MAX_REASON_LENGTH)} ...`;
}
