// How much a socket may do in one turn of the event loop.

/** Operations in a row that complete at once. After these the event loop gets a turn, so a busy peer starves nobody. */
export const OPERATIONS_PER_TURN = 64;
