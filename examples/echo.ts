// The echo service of the examples' workers: each client gets its own bytes back.
import { PassfdError, type Descriptor } from 'passfd';

/** The longest part of a message that is printed. */
const SHOWN_CHARACTERS = 60;

/** Serves the clients that `receive` returns, all at the same time. Returns when the server ends; open clients are served on. */
export async function serve(receive: () => Promise<Descriptor>, name: string): Promise<void> {
  for (;;) {
    try {
      echo(await receive(), name);
    } catch (error) {
      if (error instanceof PassfdError && ['ERR_EOF', 'ERR_PEER_GONE'].includes(error.code)) return;
      throw error;
    }
  }
}

function echo(client: Descriptor, name: string): void {
  console.log(`${name}: GOT FD ${client.fd}`);
  // A client may end its side first, and still expects the rest of its echo.
  const socket = client.toSocket({ allowHalfOpen: true });
  socket.on('data', (bytes: Buffer) => {
    const shown = bytes.toString('utf8', 0, SHOWN_CHARACTERS);
    console.log(
      `${name}: RECV ${JSON.stringify(shown)}${bytes.length > SHOWN_CHARACTERS ? `, ${bytes.length} bytes` : ''}`,
    );
  });
  socket.on('error', (error) => {
    console.log(`${name}: LOST ${error.message}`);
  });
  socket.pipe(socket);
}
