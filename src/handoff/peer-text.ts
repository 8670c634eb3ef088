// Text from a peer, made safe to print: no character that controls a terminal, and a limited length.

/** Enough to find the mistake. The text may be as long as everything that the peer sent, and longer. */
const MAX_REASON_LENGTH = 500;

/** Control characters, characters that reorder or hide text, other line ends, and halves of characters. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** The beginning of a text that may be long. */
export function shortened(reason: string): string {
  return reason.length <= MAX_REASON_LENGTH ? reason : `${reason.slice(0, MAX_REASON_LENGTH)} ...`;
}

/** The text as one line. An unprintable character becomes `\uXXXX`, so JSON stays the same JSON. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, escaped);
}

/** The text with its lines. All but the first are indented, so that none looks like a message of its own. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n  ');
}

function escaped(character: string): string {
  let units = '';
  for (let index = 0; index < character.length; index++) {
    units += `\\u${character.charCodeAt(index).toString(16).padStart(4, '0')}`;
  }
  return units;
}
