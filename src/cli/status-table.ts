// The tables that `passfd status` prints.
import * as v from 'valibot';

import { printable } from '../handoff/index.js';

type Row = readonly string[];

const cell = v.pipe(v.string(), v.transform(printable));
const count = v.number();

const shownStatus = v.object({
  version: cell,
  pid: count,
  generation: count,
  uptimeMs: count,
  listeners: v.pipe(v.array(v.object({ address: cell, accepted: count })), v.readonly()),
  connections: v.object({
    accepted: count,
    adopted: count,
    redelivered: count,
    refused: count,
    waiting: count,
    inFlight: count,
  }),
  workers: v.pipe(
    v.array(
      v.object({
        id: count,
        pid: count,
        dialect: cell,
        state: cell,
        adopted: count,
        active: v.nullable(count),
        inFlight: count,
        // Earlier releases leave them out.
        watching: v.optional(v.nullable(v.boolean())),
        loopDelayMs: v.optional(v.nullable(count)),
      }),
    ),
    v.readonly(),
  ),
});

/** The fields of a status that are shown. */
export type ShownStatus = v.InferOutput<typeof shownStatus>;

/** @returns undefined when fields are missing, as in the answer of a dispatcher of another release */
export function statusIn(answer: unknown): ShownStatus | undefined {
  const result = v.safeParse(shownStatus, answer);
  return result.success ? result.output : undefined;
}

export function formatStatus(status: ShownStatus): string {
  const { version, pid, generation, uptimeMs, connections } = status;
  const isDirect = status.workers.some(({ watching }) => typeof watching === 'boolean');
  const sections = [
    [`passfd ${version}, pid ${pid}, generation ${generation}, up ${formatDuration(uptimeMs)}`],
    table(
      ['LISTENER', 'ACCEPTED'],
      status.listeners.map(({ address, accepted }) => [address, String(accepted)]),
    ),
    table(
      ['ACCEPTED', 'ADOPTED', 'REDELIVERED', 'REFUSED', 'WAITING', 'IN FLIGHT'],
      [
        [
          connections.accepted,
          connections.adopted,
          connections.redelivered,
          connections.refused,
          connections.waiting,
          connections.inFlight,
        ].map(String),
      ],
    ),
    table(
      [
        ...['WORKER', 'PID', 'DIALECT', 'STATE', 'ADOPTED', 'ACTIVE', 'IN FLIGHT'],
        ...(isDirect ? ['WATCHING', 'LOOP MS'] : []),
      ],
      status.workers.map((worker) => [
        String(worker.id),
        String(worker.pid),
        worker.dialect,
        worker.state,
        String(worker.adopted),
        orDash(worker.active),
        String(worker.inFlight),
        ...(isDirect ? [yesOrNo(worker.watching), orDash(worker.loopDelayMs)] : []),
      ]),
    ),
  ];
  return sections.map((lines) => lines.join('\n')).join('\n\n');
}

function orDash(value: number | null | undefined): string {
  return value === null || value === undefined ? '-' : String(value);
}

function yesOrNo(value: boolean | null | undefined): string {
  return value === null || value === undefined ? '-' : value ? 'yes' : 'no';
}

const SECOND_MS = 1_000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** The two largest units, as `3 d 4 h`. */
export function formatDuration(milliseconds: number): string {
  const parts = [
    { unit: 'd', count: Math.floor(milliseconds / DAY_MS) },
    { unit: 'h', count: Math.floor((milliseconds % DAY_MS) / HOUR_MS) },
    { unit: 'min', count: Math.floor((milliseconds % HOUR_MS) / MINUTE_MS) },
    { unit: 's', count: Math.floor((milliseconds % MINUTE_MS) / SECOND_MS) },
  ];
  const first = parts.findIndex(({ count }) => count > 0);
  const shown = first < 0 ? parts.slice(-1) : parts.slice(first, first + 2);
  return shown.map(({ unit, count }) => `${count} ${unit}`).join(' ');
}

/** Numbers are aligned to the right, everything else to the left. */
function table(heading: Row, rows: readonly Row[]): string[] {
  if (rows.length === 0) return [heading.join('  '), '(none)'];
  const widths = heading.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const isNumber = heading.map((_, column) => rows.every((row) => /^(\d+|-)$/.test(row[column] ?? '')));
  return [heading, ...rows].map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return isNumber[column] === true ? cell.padStart(width) : cell.padEnd(width);
      })
      .join('  ')
      .trimEnd(),
  );
}
