// Text from a peer is shown on a terminal, and cannot control the terminal.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { printable, printableLines } from '../../../src/handoff/index.js';

/** On a terminal these could move the cursor, set the title, hide or reorder text, or end the line. */
const evil = [
  '\u0000',
  '\u0007',
  '\b',
  '\t',
  '\r',
  '\u001b[2J',
  '\u007f',
  '\u0090q\u009c',
  '\u009b1m',
  '\u00ad',
  '\u061c',
  '\u200b',
  '\u200f',
  '\u2028',
  '\u2029',
  '\u202e',
  '\u2066',
  '\ufeff',
  '\u{e0041}',
  '\ud800',
];

describe('text from a peer', () => {
  it('stays as it is when every character is printable', () => {
    for (const text of ['', 'worker 2', 'größer 日本 𝒳 😀', '\\u001b']) assert.equal(printable(text), text);
  });

  it('has the code of each unprintable character', () => {
    assert.equal(printable('a\u001b[2J\nb\u202e\u{e0041}'), 'a\\u001b[2J\\u000ab\\u202e\\udb40\\udc41');
    for (const text of evil) assert.match(printable(`a${text}b`), /^a(\\u[0-9a-f]{4}|[\x20-\x7e])+b$/, text);
  });

  it('is the same JSON if it was JSON', () => {
    const said = { evil, [evil.join('')]: 1 };
    const shown = printable(JSON.stringify(said));
    assert.match(shown, /^[\x20-\x7e]*$/);
    assert.deepEqual(JSON.parse(shown), said);
  });

  it('has indented lines, where it may have several', () => {
    assert.equal(printableLines('first\nsecond\r\nthird\u001b'), 'first\n  second\\u000d\n  third\\u001b');
  });
});
