// ServiceManager: a service manager to test against, which starts a program as systemd does (service-manager.py).
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import type { Program, Start } from './program.js';

// It is not compiled, so it stays in the source tree.
const program = fileURLToPath(new URL('../../../test/support/service-manager.py', import.meta.url));

/** Why these tests cannot run here, or false when they can. */
export const withoutServiceManager: string | false =
  spawnSync('python3', ['-c', 'import os; os.pidfd_open, os.waitstatus_to_exitcode']).status === 0
    ? false
    : 'needs Python 3.9 on Linux';

export interface ServiceOptions {
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Where it is notified: a path, or `@name`. */
  readonly notify: string;
  /** The sockets of its .socket units: a name with a host and a port, or with a path. */
  readonly listen?: readonly (
    readonly [name: string, host: string, port: number] | readonly [name: string, path: string]
  )[];
}

/** What the service has notified. */
export interface Notification {
  readonly lines: readonly string[];
  /** Of the process that sent it, from the kernel. */
  readonly pid: number;
  /** Device and inode of each descriptor. */
  readonly fds: readonly (readonly number[])[];
  /** When it was read, in microseconds of CLOCK_MONOTONIC. */
  readonly usec: number;
}

export class ServiceManager {
  readonly #program: Program;

  /** @param start what `withPrograms` lends; a service ends with the test, as far as it was the main process */
  constructor(start: Start, options: ServiceOptions) {
    // In a group of its own, with all that it has started.
    this.#program = start('python3', [program, JSON.stringify(options)], { ownGroup: true });
  }

  /** The addresses of its sockets, when it is ready. */
  async addresses(): Promise<(string | [host: string, port: number])[]> {
    return (await this.#next<{ addresses: (string | [string, number])[] }>('ready')).addresses;
  }

  /** Starts the service. */
  async start(): Promise<{ readonly pid: number; readonly names: readonly string[] }> {
    this.#program.say('start');
    return this.#next('started');
  }

  /** The next notification that has this line. @throws when the main process ends before, with what it printed */
  async notified(line: string): Promise<Notification> {
    for (;;) {
      const notification = await this.next();
      if (notification.lines.includes(line)) return notification;
    }
  }

  /** What the service notifies next. @throws as `notified` */
  async next(): Promise<Notification> {
    const event = await this.#next<Notification | { readonly code: number | null }>('(?:notified|ended)');
    if (!('code' in event)) return event;
    this.#program.kill();
    const printed = await this.#program.stderr;
    throw new Error(`The service ended with ${event.code}, and nothing more is notified:\n${printed}`);
  }

  /** Sends a signal to the main process. */
  signal(name: NodeJS.Signals): void {
    this.#program.say(`kill ${name}`);
  }

  /** Waits for the end of the main process. @returns its exit code, or the negative number of a signal */
  async ended(): Promise<number | null> {
    return (await this.#next<{ code: number | null }>('ended')).code;
  }

  /** Reads no notification until `hear`. */
  async turnDeaf(): Promise<void> {
    this.#program.say('deaf');
    await this.#next('deaf');
  }

  hear(): void {
    this.#program.say('hear');
  }

  /** The next line that the service has printed and that matches, from the first one on. */
  printed(pattern: RegExp): Promise<RegExpExecArray> {
    return this.#program.errorLine(pattern);
  }

  /** Every line that the service has printed. */
  get lines(): readonly string[] {
    return this.#program.errorLines;
  }

  async end(): Promise<void> {
    this.#program.say('end');
    assert.equal(await this.#program.exit, 0);
  }

  async #next<T>(event: string): Promise<T> {
    const { input } = await this.#program.line(new RegExp(`"event": "${event}"`));
    return JSON.parse(input) as T;
  }
}
