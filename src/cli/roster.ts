// Roster: which workers the present generation has, and in which slots; noted beside the control socket for whoever comes after a crash.
import type { Dispatcher } from '../dispatcher/index.js';
import type { ChildView, Occupant, Supervisor } from '../supervisor/index.js';
import { Survivors, type Survivor } from './survivors.js';

export class Roster {
  readonly #dispatcher: Dispatcher;
  readonly #survivors: Survivors;
  readonly #warned: (error: unknown) => void;
  /** Of the processes that were started here or by the generation before. */
  readonly #slots = new Map<number, number>();
  #isOpen = false;
  #isNoting = false;

  /**
   * @param control the path of the control socket
   * @param warned told when the workers could not be noted: after a crash, they will be started anew
   */
  constructor(control: string, dispatcher: Dispatcher, warned: (error: unknown) => void) {
    this.#dispatcher = dispatcher;
    this.#survivors = new Survivors(control);
    this.#warned = warned;
    for (const event of ['joined', 'draining', 'left'] as const) {
      dispatcher.on(event, () => {
        this.#note();
      });
    }
  }

  /** Knows from now on which processes its supervisor starts. */
  follow(supervisor: Supervisor): void {
    supervisor.on('started', ({ id, pid }) => {
      if (pid !== undefined) this.#slots.set(pid, id);
      this.#note();
    });
    // The number may be another process's from now on.
    const forget = ({ pid }: ChildView): void => {
      if (pid !== undefined) this.#slots.delete(pid);
    };
    supervisor.on('died', forget);
    supervisor.on('recycled', forget);
    supervisor.on('exited', forget);
  }

  /** Workers of a dispatcher that died, which live. */
  survivors(): Survivor[] {
    return this.#survivors.read();
  }

  /** Of survivors, those that were children of their dispatcher: some are back already. */
  occupantsAmong(survivors: readonly Survivor[]): Occupant[] {
    const ready = new Set(
      this.#dispatcher.workers.filter(({ state }) => state === 'ready').map(({ pid }) => pid),
    );
    return survivors
      .filter(({ isChild }) => isChild)
      .map(({ id, pid, identity, isLeaving }) => ({
        id,
        pid,
        identity,
        state: isLeaving ? 'leaving' : ready.has(pid) ? 'ready' : 'awaited',
      }));
  }

  /** Whether this generation is the present one. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** This generation is the present one, with what is in its slots. */
  open(occupants: readonly Occupant[]): void {
    this.#isOpen = true;
    for (const occupant of occupants) {
      if ('pid' in occupant) this.#slots.set(occupant.pid, occupant.id);
    }
    this.#note();
  }

  /** It is no more: another one notes them, or nobody needs to. */
  close(): void {
    this.#isOpen = false;
  }

  /** At an end in good order: nobody is left behind. */
  remove(): void {
    this.#survivors.remove();
  }

  /** Once for all that happens in a turn of the event loop. */
  #note(): void {
    if (this.#isNoting) return;
    this.#isNoting = true;
    queueMicrotask(() => {
      this.#isNoting = false;
      if (!this.#isOpen) return;
      const workers = this.#dispatcher.workers.filter(({ dialect }) => dialect === 'passfd');
      try {
        this.#survivors.write(
          workers.map(({ id, pid, state }) => ({
            id: this.#slots.get(pid) ?? id,
            pid,
            isChild: this.#slots.has(pid),
            isLeaving: state === 'draining',
          })),
        );
      } catch (error) {
        this.#warned(error);
      }
    });
  }
}
