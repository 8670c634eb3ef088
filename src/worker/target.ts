// Target: where a worker's connections go, a server or whoever takes them one by one.
import type { Descriptor } from '../fd/index.js';
import type { OnClosing } from './node-handles.js';

export interface Target {
  /** How many more it takes at this moment. */
  readonly room: number;
  /** So many are about to be adopted for it, and count as its own; each is delivered, or taken off again. */
  expect(change: number): void;
  /**
   * Takes over a connection that is adopted.
   * @param onClosed to be called once, when the connection is closed here
   */
  deliver(descriptor: Descriptor, onClosed: OnClosing): void;
}
