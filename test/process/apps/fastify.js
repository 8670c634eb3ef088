// An ordinary Fastify app.
import fastify from 'fastify';

const app = fastify();
app.get('/', () => process.env.PASSFD_WORKER_ID ?? 'alone');
await app.listen({ port: 0, host: '127.0.0.1' });
console.log('listening', app.server.address().port);
