// The chart: bars for the first figures, drawn as SVG that can be read on light and on dark pages.
import { contestants } from './contestants.js';
import { tell, type FigureName } from './figures.js';
import type { Outcome } from './measure.js';
import { summarize, valuesOf, type Summary } from './statistics.js';
import type { WorkId } from './works.js';

interface Panel {
  readonly title: string;
  readonly work: WorkId;
  readonly figure: FigureName;
}

interface Bar extends Summary {
  readonly title: string;
  readonly isOurs: boolean;
}

const panels: readonly Panel[] = [
  { title: '(a) HTTP, one request per connection: connections per second', work: 'a', figure: 'perSecond' },
  { title: '(a) CPU of the dispatcher, in µs per connection', work: 'a', figure: 'dispatcherCpuUs' },
  { title: '(c) raw: connections per second', work: 'c', figure: 'perSecond' },
  { title: '(d) bulk: MiB per second', work: 'd', figure: 'mebibytesPerSecond' },
];

const WIDTH = 760;
const BARS_AT = 270;
const LONGEST_BAR = 400;
const ROW = 22;
const BAR = 14;
const TITLE = 34;

/** Each bar is as long as the median; the line over its end leads from the least to the most. */
export function drawChart(outcomes: readonly Outcome[]): string {
  const parts: string[] = [];
  let y = 0;
  for (const { title, work, figure } of panels) {
    const bars = barsOf(outcomes, work, figure);
    if (bars.length === 0) continue;
    const scale = LONGEST_BAR / Math.max(...bars.map(({ most }) => most));
    parts.push(`<text class="title" x="8" y="${y + 22}">${escape(title)}</text>`);
    y += TITLE;
    for (const bar of bars) {
      parts.push(...drawBar(bar, y, scale, tell(figure, bar.median)));
      y += ROW;
    }
    y += 8;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y + 8}" width="${WIDTH}" height="${y + 8}" role="img">
<title>Connections from one port to several workers</title>
<style>
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; font-size: 13px; }
.bar { fill: #8c959f; }
.ours { fill: #1f7a4d; }
.spread { stroke: #24292f; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.bar { fill: #6e7681; }
.ours { fill: #3fb17a; }
.spread { stroke: #e6edf3; }
}
</style>
${parts.join('\n')}
</svg>
`;
}

function barsOf(outcomes: readonly Outcome[], work: WorkId, figure: FigureName): Bar[] {
  return outcomes
    .filter((outcome) => outcome.work === work)
    .flatMap((outcome) => {
      const summary = summarize(valuesOf(outcome, figure));
      const title = contestants.find(({ name }) => name === outcome.contestant)?.title ?? outcome.contestant;
      return summary ? [{ ...summary, title, isOurs: outcome.contestant.startsWith('passfd') }] : [];
    });
}

function drawBar(
  { title, isOurs, median, least, most }: Bar,
  y: number,
  scale: number,
  told: string,
): string[] {
  const at = (value: number): string => (BARS_AT + value * scale).toFixed(1);
  const middle = y + BAR / 2;
  return [
    `<text x="${BARS_AT - 8}" y="${middle + 4}" text-anchor="end">${escape(title)}</text>`,
    `<rect class="bar${isOurs ? ' ours' : ''}" x="${BARS_AT}" y="${y}" width="${(median * scale).toFixed(1)}" height="${BAR}" rx="2"/>`,
    `<line class="spread" x1="${at(least)}" x2="${at(most)}" y1="${middle}" y2="${middle}"/>`,
    `<text x="${(BARS_AT + most * scale + 8).toFixed(1)}" y="${middle + 4}">${escape(told)}</text>`,
  ];
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
