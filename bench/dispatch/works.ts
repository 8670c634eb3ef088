// The works: what the load generator does in a trial, and which figures come of it.
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';

import { median } from '../trials.js';
import type { Service } from './contestants.js';
import { collectGarbage } from './garbage.js';
import type { Figures, FigureName } from './figures.js';
import type { Load, LoadResult, Request } from './load.js';
import {
  descriptorLimit,
  descriptorsOf,
  machineTime,
  memoryOf,
  treeOf,
  usageOf,
  type MachineTime,
  type Usage,
} from './proc.js';
import { warmUpOf, type Scale } from './scale.js';
import type { Settings } from './settings.js';
import type { Stage } from './stage.js';

export const workIds = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i'] as const;
export type WorkId = (typeof workIds)[number];

export interface Work {
  readonly id: WorkId;
  readonly title: string;
  /** What the figures are of, one of: CPU per connection, per request. */
  readonly per: string;
  readonly app: Settings['app'];
  /** Measured more often than the others. */
  readonly isMain?: boolean;
  /** With how many workers; two where nothing else is said. */
  readonly workers?: (scale: Scale) => readonly number[];
  /** The number of the worker that is slow. */
  readonly slow?: number;
  /** The number of the worker whose event loop sleeps 200 ms of each second. */
  readonly sleepy?: number;
  /** Whether syscalls are counted, in a trial of their own. */
  readonly isTraced?: boolean;
  /** Whether the processes have to collect their garbage when they are asked. */
  readonly measuresMemory?: boolean;
  readonly columns: readonly FigureName[];
  measure(trial: Trial): Promise<Measurement>;
}

/** A contestant that serves, and what is asked of it. */
export interface Trial {
  readonly stage: Stage;
  readonly service: Service;
  readonly load: Load;
  readonly scale: Scale;
  readonly settings: Settings;
}

export interface Measurement {
  readonly figures: Figures;
  /** What the load generator has told of all that it was asked for, warming up too. */
  readonly results: readonly LoadResult[];
}

/** What is still done behind the last answer, such as closing and counting, belongs to the trial. */
const SETTLE_MS = 100;

/** Descriptors of a process that are not connections, at most. */
const OTHER_DESCRIPTORS = 200;

/** Of an open loop at a time: more than come while everybody is asleep for seconds. */
const OPEN_CONNECTIONS = 16_384;

const NOTHING = { p50: Number.NaN, p99: Number.NaN, max: Number.NaN } as const;

const COST: readonly FigureName[] = [
  'dispatcherCpuUs',
  'workersCpuUs',
  'dispatcherSwitches',
  'workersSwitches',
  'elsewherePercent',
];
const LATENCY: readonly FigureName[] = ['p50Us', 'p99Us', 'p999Us'];
const SYSCALLS: readonly FigureName[] = ['dispatcherSyscalls', 'workersSyscalls'];

export const works: readonly Work[] = [
  {
    id: 'a',
    title: 'HTTP, one request per connection',
    per: 'connection',
    app: 'http',
    isMain: true,
    isTraced: true,
    columns: ['perSecond', ...LATENCY, 'spreadPercent', ...COST, ...SYSCALLS],
    measure: (trial) => measureMany(trial, 'http'),
  },
  {
    id: 'b',
    title: 'HTTP keep-alive',
    per: 'request',
    app: 'http',
    columns: ['perSecond', ...LATENCY, 'spreadPercent', ...COST],
    measure: (trial) => measureMany(trial, 'keep-alive'),
  },
  {
    id: 'c',
    title: 'raw: connect, 7 bytes there, 7 bytes back, close',
    per: 'connection',
    app: 'raw',
    isMain: true,
    isTraced: true,
    columns: ['perSecond', ...LATENCY, 'spreadPercent', ...COST, ...SYSCALLS],
    measure: (trial) => measureMany(trial, 'raw'),
  },
  {
    id: 'd',
    title: 'bulk: many bytes through one connection',
    per: 'transfer',
    app: 'raw',
    columns: ['mebibytesPerSecond', 'dispatcherCpuUs', 'workersCpuUs', 'elsewherePercent'],
    measure: measureBulk,
  },
  {
    id: 'e',
    title: 'latency of a single connection on an idle system',
    per: 'connection',
    app: 'raw',
    isMain: true,
    columns: [...LATENCY, ...COST],
    measure: measureLatency,
  },
  {
    id: 'f',
    title: 'HTTP, one request per connection, by the number of workers',
    per: 'connection',
    app: 'http',
    workers: ({ workers }) => workers,
    columns: ['perSecond', 'p50Us', 'p99Us', 'spreadPercent', ...COST],
    measure: (trial) => measureMany(trial, 'http'),
  },
  {
    id: 'g',
    title: 'idle connections held',
    per: 'connection',
    app: 'raw',
    measuresMemory: true,
    columns: [
      'dispatcherDescriptors',
      'dispatcherBytes',
      'workersBytes',
      'dispatcherMebibytes',
      'dispatcherIdleCpu',
      'held',
    ],
    measure: measureIdle,
  },
  {
    id: 'h',
    title: 'HTTP, one worker slow: how long the clients of the others wait',
    per: 'connection',
    app: 'http',
    slow: 1,
    columns: ['perSecond', 'othersP50Us', 'othersP99Us', 'othersP999Us'],
    measure: measureBesideSlow,
  },
  {
    id: 'i',
    title: 'HTTP at a fixed rate, the event loop of one worker asleep 200 ms of each second',
    per: 'connection',
    app: 'http',
    sleepy: 1,
    columns: [...LATENCY, 'maxUs', 'calmP50Us', 'calmP99Us', 'calmMaxUs', 'saturationPercent'],
    measure: measureBesideSleepy,
  },
];

/** Many connections at a time, for a while. */
async function measureMany(trial: Trial, work: Request['work']): Promise<Measurement> {
  const { load, scale, settings } = trial;
  const { connections } = scale;
  const warmUp = await load.run({ work, connections, ...warmUpOf(scale, settings.workers) });
  const [result, cost] = await withCost(trial, () => load.run({ work, connections, ...scale.measured }));
  return {
    figures: {
      perSecond: result.perSecond,
      ...latencyOf(result),
      spreadPercent: spreadOf(trial, result),
      ...cost,
    },
    results: [warmUp, result],
  };
}

async function measureBulk(trial: Trial): Promise<Measurement> {
  const { load, scale, settings } = trial;
  const warmUp = await load.run({ work: 'raw', connections: scale.connections, ...scale.warmUp });
  const [result, cost] = await withCost(trial, () =>
    load.run({ work: 'bulk', count: 1, bytes: settings.bulkBytes }),
  );
  const mebibytesPerSecond = result.bytes / (1024 * 1024) / result.seconds;
  return { figures: { mebibytesPerSecond, ...cost }, results: [warmUp, result] };
}

async function measureLatency(trial: Trial): Promise<Measurement> {
  const { load, scale } = trial;
  const warmUp = await load.run({ work: 'raw', connections: scale.connections, ...scale.warmUp });
  const [result, cost] = await withCost(trial, () =>
    load.run({ work: 'latency', count: scale.latencyCount }),
  );
  return { figures: { ...latencyOf(result), ...cost }, results: [warmUp, result] };
}

/**
 * What a connection costs while it is held, and not what was needed to open it: without garbage, and since a heap may grow
 * from turn to turn whether or not anything is held, compared with the mean of before and after.
 */
async function measureIdle(trial: Trial): Promise<Measurement> {
  const { stage, load, scale, service } = trial;
  // A proxy has two descriptors for each.
  const held = Math.min(scale.idleConnections, Math.floor((descriptorLimit() - OTHER_DESCRIPTORS) / 2));
  const results = [await load.run({ work: 'raw', connections: scale.connections, ...scale.warmUp })];
  const dispatchers = dispatchersOf(service);
  const workers = service.workers.map(({ pid }) => pid);
  const account = async (): Promise<Memory> => {
    await sleep(SETTLE_MS);
    await collectGarbage(stage.directory, [...dispatchers, ...workers]);
    return {
      descriptors: descriptorsOf(dispatchers),
      dispatchers: memoryOf(dispatchers),
      workers: memoryOf(workers),
    };
  };

  // The first connections make room for those behind them, and are not compared.
  results.push(await (await load.hold(held)).release());
  const released = [await account()];
  const holding: Memory[] = [];
  let idleCpuUs = 0;
  for (let turn = 1; turn <= scale.idleTurns; turn++) {
    const hold = await load.hold(held);
    holding.push(await account());
    if (turn === 1) {
      const start = usageOf(dispatchers).cpuUs;
      await sleep(scale.idleSeconds * 1000);
      idleCpuUs = usageOf(dispatchers).cpuUs - start;
    }
    results.push(await hold.release());
    released.push(await account());
  }
  const each = (role: keyof Memory): number => {
    const differences = holding.map((during, turn) => {
      const [before, after] = [
        released[turn]?.[role] ?? Number.NaN,
        released[turn + 1]?.[role] ?? Number.NaN,
      ];
      return during[role] - (before + after) / 2;
    });
    return median(differences) / held;
  };
  return {
    figures: {
      held,
      workersBytes: each('workers'),
      ...(dispatchers.length > 0 && {
        dispatcherDescriptors: each('descriptors'),
        dispatcherBytes: each('dispatchers'),
        dispatcherMebibytes: median(holding.map((memory) => memory.dispatchers)) / 2 ** 20,
        dispatcherIdleCpu: idleCpuUs / scale.idleSeconds,
      }),
    },
    results,
  };
}

/** In bytes, of all of a kind together. */
interface Memory {
  readonly descriptors: number;
  readonly dispatchers: number;
  readonly workers: number;
}

async function measureBesideSlow(trial: Trial): Promise<Measurement> {
  const { load, scale, settings } = trial;
  const { connections } = scale;
  const warmUp = await load.run({ work: 'http', connections, ...scale.warmUp });
  const result = await load.run({ work: 'http', connections, ...scale.measured });
  const others = Object.entries(result.latencyByWorkerUs)
    .filter(([label]) => Number(label.slice(1)) !== settings.slow)
    .map(([, latency]) => latency);
  if (others.length === 0) throw new Error('Nobody but the slow worker has answered');
  const worst = (quantile: 'p50' | 'p99' | 'p999'): number =>
    Math.max(...others.map((latency) => latency[quantile]));
  return {
    figures: {
      perSecond: result.perSecond,
      othersP50Us: worst('p50'),
      othersP99Us: worst('p99'),
      othersP999Us: worst('p999'),
    },
    results: [warmUp, result],
  };
}

/**
 * An open loop: a worker that sleeps is asked no less meanwhile, and nobody waits unseen. The same contestant is measured before
 * its worker begins to sleep, so that both figures are of one warm service.
 */
async function measureBesideSleepy(trial: Trial): Promise<Measurement> {
  const { load, scale, settings, service } = trial;
  const { rate } = scale.open;
  const most = await load.run({ work: 'http', connections: scale.connections, ...scale.warmUp });
  const connections = Math.min(OPEN_CONNECTIONS, descriptorLimit() - OTHER_DESCRIPTORS);
  const open = { work: 'http', connections, ...scale.open } as const;
  const warmUp = await load.run({ ...open, ...scale.warmUp });
  const calm = await load.run(open);
  const sleepy = service.workers.find(({ number }) => number === settings.sleepy);
  if (sleepy) process.kill(sleepy.pid, 'SIGUSR2');
  const result = await load.run(open);
  const { p50: calmP50Us, p99: calmP99Us, max: calmMaxUs } = calm.latencyUs ?? NOTHING;
  return {
    figures: {
      ...latencyOf(result),
      maxUs: (result.latencyUs ?? NOTHING).max,
      calmP50Us,
      calmP99Us,
      calmMaxUs,
      saturationPercent: (rate / most.perSecond) * 100,
    },
    results: [most, warmUp, calm, result],
  };
}

function latencyOf({ latencyUs }: LoadResult): Figures {
  return latencyUs === null ? {} : { p50Us: latencyUs.p50, p99Us: latencyUs.p99, p999Us: latencyUs.p999 };
}

/** How much more the busiest worker has answered than the laziest, in percent of what each would have if all were even. */
function spreadOf({ service }: Trial, { byWorker, completed }: LoadResult): number {
  const counts = service.workers.map(({ number }) => byWorker[`w${String(number).padStart(6, '0')}`] ?? 0);
  return ((Math.max(...counts) - Math.min(...counts)) / (completed / counts.length)) * 100;
}

/** What the dispatcher and the workers have used for each answer, by the accounts of the operating system. */
async function withCost(
  { service }: Trial,
  ask: () => Promise<LoadResult>,
): Promise<readonly [LoadResult, Figures]> {
  const dispatchers = dispatchersOf(service);
  const workers = service.workers.map(({ pid }) => pid);
  const account = async (): Promise<Account> => {
    await sleep(SETTLE_MS);
    return { machine: machineTime(), dispatchers: usageOf(dispatchers), workers: usageOf(workers) };
  };
  const before = await account();
  const result = await ask();
  const after = await account();

  const used = (role: 'dispatchers' | 'workers', what: keyof Usage): number =>
    after[role][what] - before[role][what];
  const passed = (what: keyof MachineTime): number => after.machine[what] - before.machine[what];
  const loadUs = result.cpuUs.user + result.cpuUs.system;
  const elsewhereUs = passed('busyUs') - loadUs - used('dispatchers', 'cpuUs') - used('workers', 'cpuUs');
  const figures: Figures = {
    workersCpuUs: used('workers', 'cpuUs') / result.completed,
    workersSwitches: used('workers', 'switches') / result.completed,
    // The machine's own account is in ticks, and may miss a little of what the others have seen.
    elsewherePercent: Math.max(0, (elsewhereUs / passed('totalUs')) * 100),
    ...(dispatchers.length > 0 && {
      dispatcherCpuUs: used('dispatchers', 'cpuUs') / result.completed,
      dispatcherSwitches: used('dispatchers', 'switches') / result.completed,
    }),
  };
  return [result, figures];
}

interface Account {
  readonly machine: MachineTime;
  readonly dispatchers: Usage;
  readonly workers: Usage;
}

/** The processes between clients and workers: those that were started for it, and what they have started themselves. */
export function dispatchersOf({ dispatchers, workers }: Service): number[] {
  const isWorker = new Set(workers.map(({ pid }) => pid));
  return dispatchers.flatMap(({ pid }) => treeOf(pid)).filter((pid) => !isWorker.has(pid));
}
