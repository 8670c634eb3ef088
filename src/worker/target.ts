// Target: what takes the connections of a listener: a server, or a loop over them.
import type { Descriptor } from '../fd/index.js';
import type { OnClosing } from './node-handles.js';

export interface Target {
  /** How many more connections it takes at this moment. */
  readonly room: number;
  /** Whether its owner says when there is room again. If not, it has to be asked. */
  readonly reportsRoom: boolean;
  /** Adds to the number of connections that are about to be delivered. Each is delivered, or subtracted again. */
  expect(change: number): void;
  /**
   * Takes over an adopted connection.
   * @param onClosed the target calls this once, when the connection is closed here
   */
  deliver(descriptor: Descriptor, onClosed: OnClosing): void;
}
