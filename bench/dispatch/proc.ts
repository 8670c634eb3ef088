// What Linux tells of processes in /proc: who their children are, what they have used, and what they hold.
import { readdirSync, readFileSync } from 'node:fs';

/** Fields of a process's `stat`, counted from 0 behind its state. */
const USER_FIELD = 10;
const SYSTEM_FIELD = 11;
const START_FIELD = 18;

const TICK_US = 10_000;

/** What processes have used since they began. */
export interface Usage {
  readonly cpuUs: number;
  /** Context switches, voluntary or not. */
  readonly switches: number;
}

/** Of all processors together, since the machine was started. */
export interface MachineTime {
  /** Busy, with whatever it was. */
  readonly busyUs: number;
  readonly totalUs: number;
}

/** A process and all that descend from it, parents first. Empty when it is not there any more. */
export function treeOf(pid: number): number[] {
  return [pid, ...tasksOf(pid).flatMap((task) => childrenOf(pid, task).flatMap(treeOf))];
}

/**
 * When a process was started, in ticks since the machine was, which tells it from a later one with the same number.
 * @returns undefined when it has ended, whether or not its parent has taken notice
 */
export function startOf(pid: number): string | undefined {
  const [state, ...fields] = statOf(`/proc/${pid}/stat`);
  return state === 'Z' || state === 'X' ? undefined : fields[START_FIELD];
}

/** Of all threads that there are. Those of Node and of the proxies end with their process. */
export function usageOf(pids: readonly number[]): Usage {
  let cpuUs = 0;
  let switches = 0;
  for (const pid of pids) {
    for (const task of tasksOf(pid)) {
      cpuUs += cpuUsOf(pid, task);
      const status = readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8');
      for (const [, count] of status.matchAll(/^(?:non)?voluntary_ctxt_switches:\s*(\d+)$/gm)) {
        switches += Number(count);
      }
    }
  }
  return { cpuUs, switches };
}

/** Bytes of memory that is nobody else's and not a file's: heaps and stacks. What the kernel holds for it is not in it. */
export function memoryOf(pids: readonly number[]): number {
  let kibibytes = 0;
  for (const pid of pids) {
    const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    kibibytes += Number(/^Anonymous:\s*(\d+) kB$/m.exec(rollup)?.[1] ?? Number.NaN);
  }
  return kibibytes * 1024;
}

/** How many these processes have open together. */
export function descriptorsOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + readdirSync(`/proc/${pid}/fd`).length, 0);
}

export function machineTime(): MachineTime {
  const [line = ''] = readFileSync('/proc/stat', 'utf8').split('\n');
  // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in the first two already (proc_stat(5)).
  const ticks = line.split(/\s+/).slice(1, 9).map(Number);
  const total = ticks.reduce((sum, value) => sum + value, 0);
  const [, , , idle = 0, waiting = 0] = ticks;
  return { busyUs: (total - idle - waiting) * TICK_US, totalUs: total * TICK_US };
}

/** How many descriptors a process may have that is started by this one. */
export function descriptorLimit(): number {
  const limits = readFileSync('/proc/self/limits', 'utf8');
  const [, hard = ''] = /^Max open files\s+\S+\s+(\S+)/m.exec(limits) ?? [];
  return hard === 'unlimited' ? Infinity : Number(hard);
}

/** To the nanosecond from the scheduler; where the kernel was built without it, in ticks of 10 ms. */
function cpuUsOf(pid: number, task: string): number {
  const [ns] = read(`/proc/${pid}/task/${task}/schedstat`).split(' ');
  if (ns) return Number(ns) / 1000;
  const [, ...fields] = statOf(`/proc/${pid}/task/${task}/stat`);
  return (Number(fields[USER_FIELD]) + Number(fields[SYSTEM_FIELD])) * TICK_US;
}

/** The fields behind the name, which may hold anything: the state is the first (proc_pid_stat(5)). */
function statOf(path: string): string[] {
  const stat = read(path);
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}

function tasksOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return []; // it has ended
  }
}

function childrenOf(pid: number, task: string): number[] {
  return read(`/proc/${pid}/task/${task}/children`).split(' ').filter(Boolean).map(Number);
}

/** Empty when it is not there. */
function read(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}
