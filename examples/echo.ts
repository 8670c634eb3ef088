// What the workers of the examples do with a client: answer it with its own words.
import { PassfdError, type Descriptor } from 'passfd';

/** More of a message than this is not printed. */
const SHOWN_CHARACTERS = 60;

/** Serves each client that `receive` brings, all at once, until the server ends; then those that are here, to their end. */
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
  // A client may end its side first and still wants the rest of its echo.
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
