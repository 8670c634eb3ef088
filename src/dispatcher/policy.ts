// The rules that choose a worker for a connection: pure functions of what is known about the workers.
import type { Address } from '../fd/index.js';

/** What a policy knows about a worker that has room. */
export interface Candidate {
  /** Stays the same when a supervised worker is restarted. */
  readonly id: number;
  /** Connections that it has open or that are in flight to it, as far as its dialect reports them. */
  readonly load: number;
}

/** The connection to be placed. */
export interface Arrival {
  /** The client's address, read from the kernel on access. Undefined when the client has no address or has hung up. */
  readonly client: Address | undefined;
  /** The address that the client connected to. */
  readonly local: Address;
}

/**
 * Chooses one of the workers that have room.
 * @param workers at least one, in the order of their ids. A policy never sees a worker that is full, so a policy that prefers
 * one worker falls back by itself
 * @returns one of `workers`
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

/** Protects the dispatcher's own list from a custom policy. */
export function isolated(policy: Policy): Policy {
  return (workers, arrival) => policy(Object.freeze([...workers]), arrival);
}

/** Workers take turns. */
export function roundRobin(): Policy {
  let last = 0;
  return (workers) => {
    const next = workers.find(({ id }) => id > last) ?? first(workers);
    last = next.id;
    return next;
  };
}

/** The worker with the fewest connections. Workers with equally few take turns. */
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
 * Draws two workers by lot and takes the one with fewer connections. Nearly as even as the fewest of all, and a worker that has
 * just joined is not flooded (Mitzenmacher, "The power of two choices", 2001).
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
 * Clients of Unix sockets have no address, and workers take turns for them.
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

/** The last step of MurmurHash3. With a weaker mix, neighbouring ids would get uneven shares of the clients. */
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
