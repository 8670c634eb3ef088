// An ordinary Express app.
import express from 'express';

const app = express();
app.get('/', (_request, response) => {
  response.send(process.env.PASSFD_WORKER_ID ?? 'alone');
});
const server = app.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
