// Starts the servers that PLAN names, by worker or for all, and prints the results. `close` from a client closes its
// server, `unref` unreferences it, and `end` ends its connection. With `stays`, the process lives on without a server.
import { createServer } from 'node:net';

const { PASSFD_WORKER_ID: worker = 'alone', PLAN } = process.env;
const plans = JSON.parse(PLAN);
const tell = (...words) => console.log([worker, ...words].join(' '));

process.on('exit', () => tell('exit'));
for (const { name, listen, max, unref = false, stays = false } of plans[worker] ?? plans.all) {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.write(`${worker} ${name}\n`);
    socket.on('data', (said) => {
      if (String(said).includes('close')) server.close();
      else if (String(said).includes('unref')) server.unref();
      else if (String(said).includes('end')) socket.end();
    });
  });
  if (max !== undefined) server.maxConnections = max;
  server.on('close', () => tell('closed', name));
  server.on('error', ({ code, syscall, address, port }) =>
    tell('error', name, JSON.stringify({ code, syscall, address, port })),
  );
  await new Promise((resolve) => {
    server.once('error', resolve);
    server.listen(listen, () => {
      tell('listening', name, JSON.stringify(server.address()));
      resolve();
    });
  });
  if (unref) server.unref();
  if (stays) setInterval(() => {}, 60_000);
}
