// Schemas of the numbers in messages. A number that is no safe integer would lose its last digits on the way.
import * as v from 'valibot';

export const integer = v.pipe(v.number(), v.safeInteger());

/** An integer from 0. */
export const count = v.pipe(integer, v.minValue(0));
/** An integer from 1. */
export const positive = v.pipe(integer, v.minValue(1));
