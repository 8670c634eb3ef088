// Takes the steps in the file STEPS, one after the other, and prints each when it is done. It knows nothing
// of passfd. Every server answers with its name, its process, and RELEASE.
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';

const { STEPS, RELEASE = '' } = process.env;
const servers = new Map();

function serverOf(name) {
  const server = createServer((request, response) => {
    response.end(`${name} ${process.pid} ${RELEASE}`);
  });
  servers.set(name, server);
  return server;
}

/** `$PID` in a path is the id of this process. */
function withPid(path) {
  return path.replace('$PID', String(process.pid));
}

function listenAt(server, at) {
  server.listen(at.path ? { path: withPid(at.path) } : at);
}

async function isReachable(at) {
  const socket = connect(at);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

const steps = {
  async listen({ name, at }) {
    const server = serverOf(name);
    listenAt(server, at);
    await once(server, 'listening');
    const address = server.address();
    console.log('listening', name, address.port ?? address);
  },
  /** Checks whether a port is free, as detect-port and get-port do. */
  async probe({ at }) {
    const server = createServer();
    server.listen(at, () => server.close());
    await once(server, 'close');
    console.log('probed');
  },
  /** As serve and browser-sync do: at any port when another process accepts at this one. */
  async choose({ name, at }) {
    await steps.listen({ name, at: (await isReachable(at)) ? { ...at, port: 0 } : at });
  },
  async close({ name }) {
    servers.get(name).close();
    await once(servers.get(name), 'close');
    console.log('closed', name);
  },
  /** Waits until the test makes this file. */
  async await({ file }) {
    console.log('awaiting', withPid(file));
    while (!existsSync(withPid(file))) await pause(5);
  },
  exit() {
    process.exit(0);
  },
  throw({ text }) {
    throw new Error(text);
  },
};

for (const { do: step, ...how } of JSON.parse(readFileSync(STEPS, 'utf8'))) await steps[step](how);
