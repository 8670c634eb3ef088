// Crowd: clients that come one after the other, many at a time, each with a number of its own that it wants to hear back.
import { connect } from 'node:net';

export interface CrowdOptions {
  readonly port: number;
  /** Clients at a time. */
  readonly concurrency: number;
  /** Stops by itself when so many have been served or lost. */
  readonly count?: number;
}

export interface Outcome {
  readonly answered: number;
  /** Numbers that got no answer, or half of one. */
  readonly lost: readonly number[];
  /** Numbers that got something else than their own, with what they got. */
  readonly wrong: readonly string[];
}

/** Hosts of 127.0.0.0/8 that the clients come from in turn, so that no run ends for want of ports. */
const HOSTS = 250;

export class Crowd {
  readonly #port: number;
  readonly #count: number;
  #next = 0;
  #answered = 0;
  #isStopping = false;
  #whenAnswered: { readonly count: number; readonly resolve: () => void }[] = [];
  readonly #lost: number[] = [];
  readonly #wrong: string[] = [];
  readonly #clients: Promise<void>[];

  constructor({ port, concurrency, count = Number.POSITIVE_INFINITY }: CrowdOptions) {
    this.#port = port;
    this.#count = count;
    this.#clients = Array.from({ length: concurrency }, () => this.#comeAgainAndAgain());
  }

  get answered(): number {
    return this.#answered;
  }

  /** Numbers of those that got no answer, or half of one, so far. */
  get lost(): readonly number[] {
    return this.#lost;
  }

  /** Resolves when so many more have been answered, or no client comes any more; none does when one was refused. */
  async untilMore(count: number): Promise<void> {
    const target = this.#answered + count;
    const answered = new Promise<void>((resolve) => this.#whenAnswered.push({ count: target, resolve }));
    await Promise.race([answered, this.finished()]);
  }

  /** No client comes any more. */
  [Symbol.dispose](): void {
    this.#isStopping = true;
  }

  /** No client comes any more; resolves when the last has left. */
  async stop(): Promise<Outcome> {
    this.#isStopping = true;
    return this.finished();
  }

  /** Resolves when all of `count` have been served or lost. */
  async finished(): Promise<Outcome> {
    await Promise.all(this.#clients);
    return { answered: this.#answered, lost: this.#lost, wrong: this.#wrong };
  }

  async #comeAgainAndAgain(): Promise<void> {
    while (!this.#isStopping && this.#next < this.#count) {
      const number = this.#next++;
      const heard = await this.#ask(number);
      if (heard === `${number}\n`) this.#noteAnswered();
      else if (`${number}\n`.startsWith(heard)) this.#lost.push(number);
      else this.#wrong.push(`${number}: ${heard}`);
    }
  }

  #noteAnswered(): void {
    this.#answered++;
    const due = this.#whenAnswered.filter(({ count }) => count <= this.#answered);
    if (due.length === 0) return;
    this.#whenAnswered = this.#whenAnswered.filter((waiting) => !due.includes(waiting));
    for (const { resolve } of due) resolve();
  }

  /** Everything that is heard until the end, however it comes. */
  #ask(number: number): Promise<string> {
    const localAddress = `127.${1 + (number % HOSTS)}.${1 + (Math.floor(number / HOSTS) % HOSTS)}.1`;
    return new Promise((resolve) => {
      let heard = '';
      const client = connect({ host: '127.0.0.1', port: this.#port, localAddress });
      client.setEncoding('latin1');
      client.on('error', ({ code }: NodeJS.ErrnoException) => {
        // Nobody listens there any more: the others would hear it for ever.
        if (code === 'ECONNREFUSED') this.#isStopping = true;
      });
      client.on('data', (text: string) => {
        heard += text;
        // An echo server hangs up when its client does; one that ends first does not mind.
        if (heard.endsWith('\n')) client.end();
      });
      client.on('close', () => {
        resolve(heard);
      });
      client.write(`${number}\n`);
    });
  }
}
