// Watch: accepts the connections of one listening socket for a server or loop: at most one in a turn, while there is room.
import { AsyncResource } from 'node:async_hooks';

import { Acceptor, PassfdError, type Descriptor } from '../fd/index.js';
import type { Consumer } from '../fd/internal.js';
import { traceStep } from '../handoff/index.js';
import type { Tally } from './board-counts.js';
import type { OnClosing } from './node-handles.js';
import type { OpenConnections } from './open-connections.js';
import type { Target } from './target.js';

/**
 * Pause before a server that had no room is asked again while clients wait: an app can raise `maxConnections` at any time,
 * and nothing reports that. Also the pause after `MOST_IN_VAIN`.
 */
const ASK_AGAIN_MS = 100;

/**
 * Most questions for room in a row that bring no connection. Others were faster each time, or the socket was shut down: a Unix
 * socket is readable for ever then, and accept(2) says only that nobody waits.
 */
const MOST_IN_VAIN = 128;

/** Shortest time between two warnings that accepting fails. The dispatcher may have this worker stop and start many times. */
const WARNING_PAUSE_MS = 60_000;

export interface WatchHost {
  /** Whether the worker may have one more connection. */
  mayAccept(): boolean;
  /** There was no room: `resume` is to be called when there may be some. */
  held(): void;
}

/** A duplicate of the socket in custody, which the watch owns. */
interface Own {
  readonly descriptor: Descriptor;
  readonly inode: string;
}

type State =
  | { readonly is: 'none' }
  | ({ readonly is: 'off' } & Own)
  | { readonly is: 'on'; readonly acceptor: Acceptor; readonly inode: string };

/** A connection is accepted in no context of the app: what one client left there must not reach the next one. */
const scope = new AsyncResource('PassfdWatch');

export class Watch implements Consumer {
  readonly key: string;
  readonly tally: Tally;
  /** What gets the connections; undefined when nothing takes them any more. */
  target: Target | undefined;
  /** Whether the worker is to accept here, now or when a server listens here again. */
  isWanted = false;
  readonly #connections: OpenConnections;
  readonly #host: WatchHost;
  #state: State = { is: 'none' };
  #isHeld = false;
  #isResuming = false;
  /** Questions for room since the last connection came. */
  #inVain = 0;
  #askAgain: NodeJS.Timeout | undefined;
  #warnedAt = Number.NEGATIVE_INFINITY;
  readonly #onClosed: OnClosing;
  readonly #goOn = (): void => {
    this.#isResuming = false;
    if (this.#state.is !== 'on') return;
    const { acceptor } = this.#state;
    scope.runInAsyncScope(() => {
      acceptor.resume();
    });
  };

  /** @param key of the socket in custody */
  constructor(key: string, tally: Tally, connections: OpenConnections, host: WatchHost) {
    this.key = key;
    this.tally = tally;
    this.#connections = connections;
    this.#host = host;
    const noteClosed = (): void => {
      tally.closed();
    };
    this.#onClosed = (passedOn) => {
      connections.closeDirect(passedOn, noteClosed);
    };
  }

  /** Whether it accepts connections, as far as there is room. */
  get isOn(): boolean {
    return this.#state.is === 'on';
  }

  /**
   * Accepts connections from now on.
   * @param socket lent: the socket in custody
   * @returns false when that is not possible: no descriptor is free, or the socket does not listen any more
   */
  start(target: Target, socket: Descriptor): boolean {
    this.target = target;
    if (this.#state.is === 'on') return true;
    const own = this.#state.is === 'off' ? this.#state : duplicate(socket);
    return own !== undefined && this.#open(own);
  }

  /** Accepts nothing after this call. The duplicate stays, so that `start` needs no free descriptor. */
  stop(): void {
    if (this.#state.is !== 'on') return;
    const { acceptor, inode } = this.#state;
    this.#state = { is: 'off', descriptor: acceptor.release(), inode };
    this.#isHeld = false;
    clearTimeout(this.#askAgain);
    this.#askAgain = undefined;
  }

  /** Accepts nothing after this call, for nobody, and keeps nothing open. */
  end(): void {
    this.stop();
    this.target = undefined;
    this.#drop();
  }

  /**
   * This socket is in custody now. If it is another one, it is used from now on.
   * @returns false when that is not possible, so that nothing is accepted any more
   */
  replace(socket: Descriptor): boolean {
    if (this.#state.is === 'none' || this.#state.inode === socket.inode) return true;
    const { isOn, target } = this;
    this.stop();
    this.#drop();
    return !isOn || !target || this.start(target, socket);
  }

  /** There may be room again. */
  resume(): void {
    if (!this.#isHeld || this.#isResuming) return;
    this.#isHeld = false;
    this.#isResuming = true;
    // In a turn of its own: what was closed is counted by then, and several closed ones bring one connection.
    setImmediate(this.#goOn);
  }

  room(): number {
    if (this.target !== undefined && this.#host.mayAccept() && this.target.room > 0) {
      if (++this.#inVain <= MOST_IN_VAIN) return 1;
      this.#rest();
      return 0;
    }
    this.#isHeld = true;
    this.#host.held();
    return 0;
  }

  take(accepted: Descriptor[]): void {
    const { target } = this;
    this.#inVain = 0;
    for (const descriptor of accepted) {
      traceStep('accepted');
      if (!target) {
        // Without a target there is no room, so nothing comes.
        descriptor.close();
        continue;
      }
      this.tally.opened();
      this.#connections.addDirect();
      target.expect(1);
      try {
        target.deliver(descriptor, this.#onClosed);
      } catch (error) {
        // An exception of the app is an ordinary one, and stops nothing here.
        process.nextTick(() => {
          throw error;
        });
      }
    }
  }

  crowded(isCrowded: boolean): void {
    if (isCrowded && this.target?.reportsRoom === false) this.#rest();
    if (isCrowded) return;
    clearTimeout(this.#askAgain);
    this.#askAgain = undefined;
  }

  failed(error: PassfdError, isRepeated: boolean): void {
    if (isOver(error)) {
      this.stop();
      this.#drop();
    } else if (!isRepeated && performance.now() - this.#warnedAt > WARNING_PAUSE_MS) {
      this.#warnedAt = performance.now();
      process.emitWarning(error.message, { type: 'PassfdWarning', code: error.code });
    }
  }

  #rest(): void {
    this.#askAgain ??= setTimeout(() => {
      this.#watchAgain();
    }, ASK_AGAIN_MS).unref();
  }

  /** Watches the socket again after it was found crowded: it may be empty by now, so a client has to come first. */
  #watchAgain(): void {
    this.#askAgain = undefined;
    if (this.#state.is !== 'on') return;
    this.#inVain = 0;
    this.#feed(this.#state.acceptor);
  }

  /** Also has `crowded` called again. */
  #feed(acceptor: Acceptor): void {
    scope.runInAsyncScope(() => {
      acceptor.feed(this);
    });
  }

  /** @returns false when the socket cannot be watched; then nothing stays open */
  #open({ descriptor, inode }: Own): boolean {
    this.#state = { is: 'none' };
    this.#inVain = 0;
    let acceptor: Acceptor | undefined;
    try {
      const made = new Acceptor(descriptor);
      acceptor = made;
      // The server or loop decides whether the process stays alive.
      made.unref();
      this.#state = { is: 'on', acceptor: made, inode };
      this.#feed(made);
      return true;
    } catch (error) {
      descriptor.close();
      acceptor?.release().close();
      this.#state = { is: 'none' };
      if (!(error instanceof PassfdError)) process.emitWarning(String(error), 'PassfdWarning');
      return false;
    }
  }

  #drop(): void {
    if (this.#state.is === 'off') this.#state.descriptor.close();
    this.#state = { is: 'none' };
  }
}

/** @returns undefined when no descriptor is free */
function duplicate(socket: Descriptor): Own | undefined {
  try {
    const descriptor = socket.duplicate();
    return { descriptor, inode: descriptor.inode };
  } catch (error) {
    if (error instanceof PassfdError) return undefined;
    throw error;
  }
}

/** Whether a process has ended the socket for all that hold it, by shutdown(2). */
function isOver({ cause }: PassfdError): boolean {
  return (cause as NodeJS.ErrnoException | undefined)?.code === 'EINVAL';
}
