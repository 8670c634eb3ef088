// Pipe: two connected ends. One of them is usually for a child process.
import { socketPair } from '../fd/index.js';
import { Connection } from './connection.js';

/**
 * Makes two connections to each other, as `multiprocessing.Pipe` does.
 *
 * For a child process, put one end into `stdio`, and close it here once the child is started:
 * ```ts
 * const [parentEnd, childEnd] = Pipe();
 * const child = spawn('python3', ['worker.py'], { stdio: ['inherit', 'inherit', 'inherit', childEnd.fd] });
 * childEnd.close();
 * ```
 * In the child it is descriptor 3: `new Connection(3)` in Node, `Connection(3)` in Python.
 * @param duplex when false, the first end only receives and the second only sends. Unlike Python's, such a pair is still a
 * socket, so it carries handles. Default: true.
 * @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT`
 */
export function Pipe(duplex = true): [Connection, Connection] {
  const [first, second] = socketPair();
  return [new Connection(first, { writable: duplex }), new Connection(second, { readable: duplex })];
}
