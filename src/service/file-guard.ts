// FileGuard: notices that an app, a cleaner or a person has removed a file of the service.
import { watch, type FSWatcher } from 'node:fs';
import { basename, dirname } from 'node:path';

/** Checked this often too: a directory may not be watchable, or may have been replaced. */
const LOOK_EVERY_MS = 2_000;

export class FileGuard implements Disposable {
  readonly #check: () => Promise<void>;
  readonly #timer: NodeJS.Timeout;
  /** By directory. Events of other files in it are ignored. */
  readonly #watched = new Map<string, { readonly watcher: FSWatcher; readonly names: Set<string> }>();
  /** While a check runs: whether something has happened since it began. */
  #running: { isStale: boolean } | undefined;

  /** @param check checks and restores all files. It reports its failures itself */
  constructor(check: () => Promise<void>) {
    this.#check = check;
    this.#timer = setInterval(() => {
      this.#run();
    }, LOOK_EVERY_MS).unref();
  }

  /** Watches this file. */
  add(path: string): void {
    const directory = dirname(path);
    const known = this.#watched.get(directory);
    if (known) {
      known.names.add(basename(path));
      return;
    }
    const names = new Set([basename(path)]);
    try {
      const watcher = watch(directory, { persistent: false }, (_type, name) => {
        if (name === null || names.has(name)) this.#run();
      });
      this.#watched.set(directory, { watcher, names });
      watcher.on('error', () => {
        watcher.close();
        this.#watched.delete(directory);
      });
    } catch {
      // The timer still checks it.
    }
  }

  /** Stops watching this file. */
  remove(path: string): void {
    const directory = dirname(path);
    const watched = this.#watched.get(directory);
    watched?.names.delete(basename(path));
    if (watched?.names.size !== 0) return;
    watched.watcher.close();
    this.#watched.delete(directory);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    for (const { watcher } of this.#watched.values()) watcher.close();
    this.#watched.clear();
  }

  #run(): void {
    if (this.#running) {
      this.#running.isStale = true;
      return;
    }
    const running = { isStale: false };
    this.#running = running;
    this.#check()
      .catch(() => undefined)
      .finally(() => {
        this.#running = undefined;
        if (running.isStale) this.#run();
      })
      .catch(() => undefined);
  }
}
