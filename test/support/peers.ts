// The Python peers of `test/interop/peers`, on every CPython of this machine.
import { fileURLToPath } from 'node:url';
import { describe } from 'node:test';

import { pythons, type Python } from './pythons.js';

// They are not compiled, so they stay in the source tree.
const directory = fileURLToPath(new URL('../../../test/interop/peers/', import.meta.url));

/** The command that runs a peer: it prints without a delay, and leaves no compiled file in the source tree. */
export function peer(python: Python, name: string, ...args: readonly string[]): [string, string[]] {
  return [python.path, ['-u', '-B', `${directory}${name}.py`, ...args]];
}

/** Describes what holds with every CPython. */
export function describeWithEachPython(name: string, body: (python: Python) => void): void {
  describeWith(pythons(), name, body);
}

/** Describes what holds with the oldest and the newest CPython: for what takes long and may differ between them. */
export function describeWithFirstAndLastPython(name: string, body: (python: Python) => void): void {
  const [first, ...others] = pythons();
  describeWith(first ? [first, ...others.slice(-1)] : [], name, body);
}

/** Describes what holds with the newest CPython: for what does not differ between versions, or takes long. */
export function describeWithOnePython(name: string, body: (python: Python) => void): void {
  describeWith(pythons().slice(-1), name, body);
}

function describeWith(found: readonly Python[], name: string, body: (python: Python) => void): void {
  if (found.length === 0) describe(name, { skip: 'there is no CPython >= 3.8 here' });
  for (const python of found) {
    describe(`${name}, CPython ${python.version}`, () => {
      body(python);
    });
  }
}
