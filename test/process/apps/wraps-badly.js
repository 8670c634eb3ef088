// Wraps `_listen2`, whose name Node keeps for code that wraps it (lib/net.js), and throws when the answer comes.
import { Server } from 'node:net';

const { _listen2: listen } = Server.prototype;
Server.prototype._listen2 = function (...args) {
  if (this._handle) throw new Error('no good');
  return listen.apply(this, args);
};

new Server().listen(0, '127.0.0.1');
