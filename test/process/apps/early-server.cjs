// A preload that listens. It knows nothing of passfd.
require('node:http')
  .createServer((request, response) => response.end('early'))
  .listen(0, '127.0.0.1');
