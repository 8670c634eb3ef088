// Vacancies: the addresses that no worker serves, and how long each stays open for a worker that may come.
import { clearTimeout, setTimeout } from 'node:timers';

import type { Listener } from './listener.js';

/** What is known of the workers at the moment. */
export interface Staff {
  /** Whether any worker takes connections, of whatever address. */
  readonly isAnyReady: boolean;
  /** Whether any worker is expected, or has joined and does not take connections yet. */
  readonly isAnyStarting: boolean;
}

export interface Vacancy {
  /** When the last worker that served it stopped doing so. */
  readonly since: number;
  /** Whether that worker had not been told to leave. Then another is started in its place, or it comes back. */
  readonly isLoss: boolean;
}

/** @returns how long an address without a worker stays open: 0 when no worker will serve it */
export function remainingMs(vacancy: Vacancy, staff: Staff, now: number, timeoutMs: number): number {
  const mayBeServed = vacancy.isLoss || staff.isAnyStarting || !staff.isAnyReady;
  return mayBeServed ? Math.max(0, vacancy.since + timeoutMs - now) : 0;
}

export interface VacanciesHost {
  staff(): Staff;
  isOpen(listener: Listener): boolean;
  isServed(listener: Listener): boolean;
  /** Whether a worker has asked for it and may still turn out to serve it. */
  isWanted(listener: Listener): boolean;
  /** No worker serves it, and none will. @param isLate whether a worker was expected in vain */
  close(listener: Listener, isLate: boolean): void;
}

export class Vacancies {
  readonly #host: VacanciesHost;
  readonly #timeoutMs: number;
  readonly #vacancies = new Map<Listener, Vacancy>();
  #timer: NodeJS.Timeout | undefined;
  #isFrozen = false;

  /** @param timeoutMs the longest time that an address waits for a worker that may come */
  constructor(timeoutMs: number, host: VacanciesHost) {
    this.#timeoutMs = timeoutMs;
    this.#host = host;
  }

  /** Workers may have stopped serving these. @param isLoss whether they had not been told to stop */
  note(listeners: Iterable<Listener>, isLoss: boolean): void {
    for (const listener of listeners) {
      if (listener.isOwn || listener.isInherited) continue;
      if (!this.#host.isOpen(listener) || this.#host.isServed(listener)) continue;
      const { since = performance.now(), isLoss: wasLoss = false } = this.#vacancies.get(listener) ?? {};
      this.#vacancies.set(listener, { since, isLoss: isLoss || wasLoss });
    }
    this.review();
  }

  /** Whether no worker serves it, and it stays open for a worker that may. */
  has(listener: Listener): boolean {
    return this.#vacancies.has(listener);
  }

  /** A worker may serve an address that had none, or an expected worker will not come. */
  review(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#isFrozen || this.#vacancies.size === 0) return;
    const now = performance.now();
    const staff = this.#host.staff();
    let nextMs = Number.POSITIVE_INFINITY;
    for (const [listener, vacancy] of [...this.#vacancies]) {
      const restMs = this.#host.isServed(listener)
        ? undefined
        : remainingMs(vacancy, staff, now, this.#timeoutMs);
      if (restMs !== undefined && restMs > 0) {
        nextMs = Math.min(nextMs, restMs);
      } else if (restMs === undefined || !this.#host.isWanted(listener)) {
        this.#vacancies.delete(listener);
        if (restMs === 0) this.#host.close(listener, now - vacancy.since >= this.#timeoutMs);
      }
    }
    if (nextMs === Number.POSITIVE_INFINITY) return;
    // The timer does not keep the process alive.
    this.#timer = setTimeout(() => {
      this.review();
    }, Math.ceil(nextMs)).unref();
  }

  /** It is closed. */
  delete(listener: Listener): void {
    this.#vacancies.delete(listener);
  }

  /** Nothing is closed until `thaw`: another process may go on with the addresses. */
  freeze(): void {
    this.#isFrozen = true;
    clearTimeout(this.#timer);
  }

  thaw(): void {
    this.#isFrozen = false;
    this.review();
  }
}
