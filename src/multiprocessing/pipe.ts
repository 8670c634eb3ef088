// Pipe: two connected ends, of which one is usually for a child.
import { socketPair } from '../fd/index.js';
import { Connection } from './connection.js';

/**
 * Two connections to each other, as `multiprocessing.Pipe`. One way (`duplex` false), the first only receives and the
 * second only sends; unlike Python's, that pair is still a socket, so it carries handles.
 *
 * For a child, Node or Python, put an end into `stdio`, and close it here once the child is started:
 * ```ts
 * const [parentEnd, childEnd] = Pipe();
 * const child = spawn('python3', ['worker.py'], { stdio: ['inherit', 'inherit', 'inherit', childEnd.fd] });
 * childEnd.close();
 * ```
 * There it is descriptor 3: `new Connection(3)` in Node, `Connection(3)` in Python.
 * @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT`
 */
export function Pipe(duplex = true): [Connection, Connection] {
  const [first, second] = socketPair();
  return [new Connection(first, { writable: duplex }), new Connection(second, { readable: duplex })];
}
