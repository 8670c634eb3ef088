// Wraps what Node keeps its name for, since others wrap it too (lib/net.js), and fails when the answer is there.
import { Server } from 'node:net';

const { _listen2: listen } = Server.prototype;
Server.prototype._listen2 = function (...args) {
  if (this._handle) throw new Error('no good');
  return listen.apply(this, args);
};

new Server().listen(0, '127.0.0.1');
