// Answers which version of Node serves.
import { createServer } from 'node:http';

const { PASSFD_WORKER_ID: worker = 'alone' } = process.env;
const server = createServer((request, response) => {
  response.setHeader('Connection', 'close');
  response.end(`${worker} ${process.pid} ${process.version}`);
});
server.listen(0, '127.0.0.1', () => console.log('listening', server.address().port));
