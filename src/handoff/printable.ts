// Printable: what somebody else said, so that a terminal shows it and does nothing else.

/** Control characters, those that reorder or hide what stands around them, other ends of a line, and halves of characters. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** One line, whatever was said. Each character that is not shown stands as `\uXXXX`; so what was JSON stays the same JSON. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, escaped);
}

/** Keeps the lines of a text. All but the first are indented, so that none looks like a message of its own. */
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
