// The report of a run: what was measured on which machine, as tables for a terminal, as Markdown, and as JSON.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { drawChart } from './chart.js';
import { contestants } from './contestants.js';
import { figureNames, headingOf, tell, tellNumber, type FigureName } from './figures.js';
import { standingsOf, type Standing } from './goals.js';
import type { Machine } from './machine.js';
import type { Outcome } from './measure.js';
import { summarize, valuesOf, type Summary } from './statistics.js';
import { works, type Work } from './works.js';

export interface Report {
  readonly scale: string;
  readonly date: string;
  readonly machine: Machine;
  /** Sentences on what was left out, and on what the figures are worth. */
  readonly notes: readonly string[];
  readonly outcomes: readonly Outcome[];
}

/** A table, or a line of its own. */
type Block = string | Table;

interface Table {
  readonly title: string;
  readonly headings: readonly string[];
  /** The first cell names the row; the others are numbers, or words. */
  readonly rows: readonly (readonly string[])[];
}

const LEGEND = [
  'Medians over the rounds. CPU, switches (of context), syscalls and bytes (of memory) are those of the dispatcher, or of',
  'the workers where it says so. Uneven: how much more the busiest worker got than the laziest. Elsewhere: the share of',
  'the machine that other processes took meanwhile.',
].join('\n');

/** Writes NAME.json, NAME.md and NAME.svg. @returns their paths */
export async function writeReport(report: Report, directory: string, name: string): Promise<string[]> {
  await mkdir(directory, { recursive: true });
  const contents = {
    json: `${JSON.stringify(toJson(report), null, 1)}\n`,
    md: toMarkdown(report, name),
    svg: drawChart(report.outcomes),
  };
  return Promise.all(
    Object.entries(contents).map(async ([extension, content]) => {
      const path = join(directory, `${name}.${extension}`);
      await writeFile(path, content);
      return path;
    }),
  );
}

export function toText(report: Report): string {
  return blocksOf(report)
    .map((block) => (typeof block === 'string' ? block : textOf(block)))
    .join('\n\n');
}

function toMarkdown(report: Report, name: string): string {
  const blocks = blocksOf(report).map((block) => (typeof block === 'string' ? block : markdownOf(block)));
  return `# Benchmark: ${name}\n\n![The first figures as bars](${name}.svg)\n\n${blocks.join('\n\n')}\n`;
}

/** With the median and the spread beside what they come from, so that nobody has to compute them again. */
function toJson(report: Report): object {
  const outcomes = report.outcomes.map((outcome) => ({
    ...outcome,
    summary: Object.fromEntries(
      figureNames.flatMap((figure) => {
        const summary = summarize(valuesOf(outcome, figure));
        return summary ? [[figure, summary]] : [];
      }),
    ),
  }));
  return { ...report, outcomes, goals: standingsOf(report.outcomes) };
}

function blocksOf(report: Report): Block[] {
  const { outcomes, notes } = report;
  const standings = report.scale === 'tiny' ? [] : standingsOf(outcomes);
  return [
    machineLine(report),
    LEGEND,
    ...works.flatMap((work) => tablesOf(work, outcomes)),
    ...(standings.length > 0 ? [goalsTable(standings)] : []),
    ...problemsOf(outcomes),
    ...notes,
  ];
}

function machineLine({ machine, date }: Report): string {
  const { processor, cores, memoryGibibytes, system, versions } = machine;
  const programs = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  return `${date}: ${processor}, ${cores} cores, ${memoryGibibytes} GiB, ${system}; ${programs.join(', ')}.`;
}

/** One for each number of workers. Columns that nobody has a figure for are left out. */
function tablesOf(work: Work, all: readonly Outcome[]): Table[] {
  const outcomes = all.filter((outcome) => outcome.work === work.id);
  return [...new Set(outcomes.map(({ workers }) => workers))].map((workers) => {
    const rows = outcomes.filter((outcome) => outcome.workers === workers);
    const columns = work.columns.filter((figure) => rows.some((row) => valuesOf(row, figure).length > 0));
    const [first] = columns;
    return {
      title: `(${work.id}) ${work.title}; ${workers} ${workers === 1 ? 'worker' : 'workers'}; costs are per ${work.per}`,
      headings: ['', ...columns.map(headingOf), ...(first ? [`spread of ${headingOf(first)}`] : [])],
      rows: rows.map((row) => [
        titleOf(row.contestant),
        ...columns.map((figure) => tellFigure(row, figure)),
        ...(first ? [tellSpread(row, first)] : []),
      ]),
    };
  });
}

function goalsTable(standings: readonly Standing[]): Table {
  return {
    title: 'Goals: the median of what was measured round by round, and its spread',
    headings: ['', 'of', 'goal', 'measured', 'spread', ''],
    rows: standings.map(({ goal, contestant, wanted, unit, measured, verdict }) => [
      goal,
      titleOf(contestant),
      `${wanted} ${unit}`.trim(),
      tellMeasured(measured.median),
      `${tellMeasured(measured.least)} .. ${tellMeasured(measured.most)}`,
      verdict,
    ]),
  };
}

function problemsOf(outcomes: readonly Outcome[]): string[] {
  return outcomes.flatMap(({ work, contestant, problems }) =>
    [...new Set(problems)].map((problem) => `Problem: (${work}) ${titleOf(contestant)}: ${problem}`),
  );
}

function titleOf(contestant: string): string {
  return contestants.find(({ name }) => name === contestant)?.title ?? contestant;
}

function tellFigure(outcome: Outcome, figure: FigureName): string {
  const summary = summarize(valuesOf(outcome, figure));
  return summary ? tell(figure, summary.median) : '-';
}

function tellSpread(outcome: Outcome, figure: FigureName): string {
  const summary: Summary | undefined = summarize(valuesOf(outcome, figure));
  return summary ? `${tell(figure, summary.least)} .. ${tell(figure, summary.most)}` : '-';
}

function tellMeasured(value: number): string {
  return tellNumber(value, Math.abs(value) < 100 ? 2 : 0);
}

function textOf({ title, headings, rows }: Table): string {
  const lines = [headings, ...rows];
  const widths = headings.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  const told = lines.map((line) =>
    line
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd(),
  );
  return [title, ...told].join('\n');
}

function markdownOf({ title, headings, rows }: Table): string {
  const rule = headings.map((_, column) => (column === 0 ? '---' : '---:'));
  const lines = [headings, rule, ...rows].map((cells) => `| ${cells.join(' | ')} |`);
  return [`## ${title}`, '', ...lines].join('\n');
}
