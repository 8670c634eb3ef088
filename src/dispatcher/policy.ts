// The rules that choose a worker for a connection: pure functions of what is known about the workers.
import type { Address } from '../fd/index.js';

/** What a policy knows of a worker that has room. */
export interface Candidate {
  /** Stays the same when a supervised worker is restarted. */
  readonly id: number;
  /** Connections that it has or that are on their way to it, as far as its dialect tells. */
  readonly load: number;
}

/** The connection to be placed. */
export interface Arrival {
  /** Where the client is, read from the kernel when it is asked for; undefined when it has no address or is gone. */
  readonly client: Address | undefined;
  /** Where it came to. */
  readonly local: Address;
}

/**
 * Chooses one of the workers that have room: at least one, in the order of their ids. A worker without room is not among
 * them, so a rule that prefers one worker falls back on the next by itself.
 */
export type Policy = <T extends Candidate>(workers: readonly T[], arrival: Arrival) => T;

export const policyNames = ['round-robin', 'least-connections', 'p2c', 'client-ip'] as const;
export type PolicyName = (typeof policyNames)[number];

export function createPolicy(name: PolicyName): Policy {
  switch (name) {
    case 'round-robin':
      return roundRobin();
    case 'least-connections':
      return leastConnections();
    case 'p2c':
      return powerOfTwoChoices(Math.random);
    case 'client-ip':
      return clientAddress();
  }
}

/** A policy of the user's, which can do to the dispatcher's own list what it likes. */
export function isolated(policy: Policy): Policy {
  return (workers, arrival) => policy(Object.freeze([...workers]), arrival);
}

/** One after the other. */
export function roundRobin(): Policy {
  let last = 0;
  return (workers) => {
    const next = workers.find(({ id }) => id > last) ?? first(workers);
    last = next.id;
    return next;
  };
}

/** The one with the fewest connections; among equals one after the other. */
export function leastConnections(): Policy {
  const inTurn = roundRobin();
  return (workers, arrival) => {
    const least = Math.min(...workers.map(({ load }) => load));
    return inTurn(
      workers.filter(({ load }) => load === least),
      arrival,
    );
  };
}

/**
 * The one with fewer connections of two that are drawn by lot: nearly as even as the fewest of all, and it does not send
 * everybody to a worker that has just come (Mitzenmacher, "The power of two choices", 2001).
 */
export function powerOfTwoChoices(random: () => number): Policy {
  return (workers) => {
    const index = Math.floor(random() * workers.length);
    const one = workers[index] ?? first(workers);
    if (workers.length === 1) return one;
    const offset = 1 + Math.floor(random() * (workers.length - 1));
    const other = workers[(index + offset) % workers.length] ?? one;
    return other.load < one.load ? other : one;
  };
}

/**
 * The same worker for the same client address, by rendezvous hashing: when a worker leaves, only its own clients move.
 * Clients without an address (Unix sockets) take turns.
 */
export function clientAddress(): Policy {
  const inTurn = roundRobin();
  return (workers, arrival) => {
    const { client } = arrival;
    if (!client || !('host' in client)) return inTurn(workers, arrival);
    const hash = hashOf(client.host.replace(/^::ffff:/, ''));
    let best = first(workers);
    let bestScore = -1;
    for (const worker of workers) {
      const score = rendezvousScore(hash, worker.id);
      if (score > bestScore) {
        best = worker;
        bestScore = score;
      }
    }
    return best;
  };
}

/** FNV-1a, 32 bits (Fowler, Noll and Vo). */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return hash;
}

/** The last step of MurmurHash3: with bits that mix worse, neighbouring ids would share out the clients unevenly. */
function rendezvousScore(client: number, id: number): number {
  let score = client ^ Math.imul(id, 0x9e3779b1);
  score = Math.imul(score ^ (score >>> 16), 0x85ebca6b);
  score = Math.imul(score ^ (score >>> 13), 0xc2b2ae35);
  return (score ^ (score >>> 16)) >>> 0;
}

function first<T>(workers: readonly T[]): T {
  const [worker] = workers;
  if (worker === undefined) throw new TypeError('A policy was asked to choose from no worker');
  return worker;
}
