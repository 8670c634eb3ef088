// StandaloneServers: servers of this process that listen by themselves. No dispatcher knows of them, but a drain waits for them.
import type { Server } from 'node:net';

import { watchStandalone } from './node-handles.js';
import type { OpenConnections } from './open-connections.js';
import { finishConnections, prepareClosing } from './server-closing.js';

export class StandaloneServers {
  readonly #open: OpenConnections;
  readonly #servers = new Set<Server>();
  #isDraining = false;

  constructor(open: OpenConnections) {
    this.#open = open;
  }

  /** Counts the connections of a server that has its own listening socket. Does nothing for any other server. */
  watch(server: Server): void {
    const isStandalone = watchStandalone(server, {
      accepted: () => {
        this.#open.addStandalone();
        return (passedOn) => {
          this.#open.closeStandalone(passedOn);
        };
      },
      closed: () => {
        this.#servers.delete(server);
      },
    });
    if (!isStandalone) return;
    this.#servers.add(server);
    prepareClosing(server);
    if (this.#isDraining) finishConnections(server);
  }

  /** Finishes what is open. The servers go on listening, since an open session may need them. */
  drain(): void {
    this.#isDraining = true;
    for (const server of this.#servers) finishConnections(server);
  }
}
