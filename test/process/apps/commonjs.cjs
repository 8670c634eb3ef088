// An ordinary node:http server, as CommonJS.
const { createServer } = require('node:http');

const server = createServer((request, response) => {
  response.end(process.env.PASSFD_WORKER_ID ?? 'alone');
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
