// Starts the app as launchers do: with a socket named after its process id, and a child that shares its output.
const { spawn } = require('node:child_process');
const { createServer } = require('node:net');
const { tmpdir } = require('node:os');
const { join } = require('node:path');

const server = createServer().listen(join(process.argv[3] ?? tmpdir(), `${process.pid}.pipe`), () => {
  const child = spawn(process.execPath, [process.argv[2]], { stdio: 'inherit' });
  child.on('exit', () => server.close());
  process.on('SIGTERM', () => child.kill());
});
