// Schemas of the numbers in messages.
import * as v from 'valibot';

export const integer = v.pipe(v.number(), v.safeInteger());

export const count = v.pipe(integer, v.minValue(0));
export const positive = v.pipe(integer, v.minValue(1));
