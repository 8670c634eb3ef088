// Vacancies: the addresses that no worker serves, and how long each stays open for a worker that may come.
import { clearTimeout, setTimeout } from 'node:timers';

import type { Listener } from './listener.js';

/** What is known of the workers at the moment. */
export interface Staff {
  /** Whether any worker takes connections, of whatever address. */
  readonly isAnyReady: boolean;
  /** Whether any has been started, is to be started, or has joined, and does not take connections yet. */
  readonly isAnyStarting: boolean;
}

export interface Vacancy {
  /** When the last worker that served it stopped doing so. */
  readonly since: number;
  /** Whether that worker had not been told to leave: then another one is started in its place, or it comes back. */
  readonly isLoss: boolean;
}

/** @returns how long an address stays open that nobody serves: 0 when nobody will serve it */
export function remainingMs(vacancy: Vacancy, staff: Staff, now: number, timeoutMs: number): number {
  const mayBeServed = vacancy.isLoss || staff.isAnyStarting || !staff.isAnyReady;
  return mayBeServed ? Math.max(0, vacancy.since + timeoutMs - now) : 0;
}

/** What the dispatcher tells of its workers, and what it does. */
export interface VacanciesOwner {
  staff(): Staff;
  /** Whether it is open here. */
  isOpen(listener: Listener): boolean;
  isServed(listener: Listener): boolean;
  /** Whether a worker has asked for it, of which nobody knows yet whether it serves it. */
  isWanted(listener: Listener): boolean;
  /** Nobody serves it, and nobody will. @param isLate whether somebody was expected */
  release(listener: Listener, isLate: boolean): void;
}

export class Vacancies {
  readonly #owner: VacanciesOwner;
  readonly #timeoutMs: number;
  readonly #vacancies = new Map<Listener, Vacancy>();
  #timer: NodeJS.Timeout | undefined;
  #isPaused = false;

  /** @param timeoutMs how long an address waits at most for a worker that may come */
  constructor(timeoutMs: number, owner: VacanciesOwner) {
    this.#timeoutMs = timeoutMs;
    this.#owner = owner;
  }

  /** Workers may have stopped serving these. @param isLoss whether without having been told to */
  note(listeners: Iterable<Listener>, isLoss: boolean): void {
    for (const listener of listeners) {
      if (
        listener.isOwn ||
        listener.isInherited ||
        !this.#owner.isOpen(listener) ||
        this.#owner.isServed(listener)
      )
        {continue;}
      const { since = performance.now(), isLoss: wasLoss = false } = this.#vacancies.get(listener) ?? {};
      this.#vacancies.set(listener, { since, isLoss: isLoss || wasLoss });
    }
    this.review();
  }

  /** Whether nobody serves it, and it stays open for a worker that may. */
  has(listener: Listener): boolean {
    return this.#vacancies.has(listener);
  }

  /** Some worker may serve what nobody did, or is not expected any more. */
  review(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#isPaused || this.#vacancies.size === 0) return;
    const now = performance.now();
    const staff = this.#owner.staff();
    let nextMs = Number.POSITIVE_INFINITY;
    for (const [listener, vacancy] of [...this.#vacancies]) {
      const restMs = this.#owner.isServed(listener)
        ? undefined
        : remainingMs(vacancy, staff, now, this.#timeoutMs);
      if (restMs !== undefined && restMs > 0) {
        nextMs = Math.min(nextMs, restMs);
      } else if (restMs === undefined || !this.#owner.isWanted(listener)) {
        this.#vacancies.delete(listener);
        if (restMs === 0) this.#owner.release(listener, now - vacancy.since >= this.#timeoutMs);
      }
    }
    if (nextMs === Number.POSITIVE_INFINITY) return;
    // Nobody is kept alive by it, and a moment more than that is no matter.
    this.#timer = setTimeout(() => {
      this.review();
    }, Math.ceil(nextMs)).unref();
  }

  /** It is closed. */
  delete(listener: Listener): void {
    this.#vacancies.delete(listener);
  }

  /** Nothing is released until `resume`: another process may go on with the addresses. */
  pause(): void {
    this.#isPaused = true;
    clearTimeout(this.#timer);
  }

  resume(): void {
    this.#isPaused = false;
    this.review();
  }
}
