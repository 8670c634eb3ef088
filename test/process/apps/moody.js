// Does what the file MOOD says: serve, throw, exit or hang. It knows nothing of passfd.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

switch (readFileSync(process.env.MOOD_FILE, 'utf8')) {
  case 'throw':
    throw new Error('there is no database here');
  case 'exit':
    process.exit(3);
    break;
  case 'hang':
    setInterval(() => {}, 1000);
    break;
  default:
    createServer((request, response) => {
      response.end(`${process.pid} ${process.env.RELEASE ?? ''}`);
    }).listen(0, '127.0.0.1', function listening() {
      console.log('listening', this.address().port);
    });
}
