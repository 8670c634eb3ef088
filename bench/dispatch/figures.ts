// The figures that are measured: what each is called, in which unit it is told, and with how many digits.

export const figureNames = [
  'perSecond',
  'p50Us',
  'p99Us',
  'p999Us',
  'maxUs',
  'calmP50Us',
  'calmP99Us',
  'calmMaxUs',
  'saturationPercent',
  'spreadPercent',
  'dispatcherCpuUs',
  'workersCpuUs',
  'dispatcherSwitches',
  'workersSwitches',
  'elsewherePercent',
  'dispatcherSyscalls',
  'workersSyscalls',
  'mebibytesPerSecond',
  'held',
  'dispatcherDescriptors',
  'dispatcherBytes',
  'workersBytes',
  'dispatcherMebibytes',
  'dispatcherIdleCpu',
  'othersP50Us',
  'othersP99Us',
  'othersP999Us',
] as const;
export type FigureName = (typeof figureNames)[number];

/** Of one trial: what was measured in it. */
export type Figures = Readonly<Partial<Record<FigureName, number>>>;

interface Telling {
  readonly heading: string;
  readonly digits: number;
}

const tellings: Readonly<Record<FigureName, Telling>> = {
  perSecond: { heading: 'per second', digits: 0 },
  p50Us: { heading: 'p50 µs', digits: 0 },
  p99Us: { heading: 'p99 µs', digits: 0 },
  p999Us: { heading: 'p99.9 µs', digits: 0 },
  maxUs: { heading: 'max µs', digits: 0 },
  calmP50Us: { heading: 'p50 µs before', digits: 0 },
  calmP99Us: { heading: 'p99 µs before', digits: 0 },
  calmMaxUs: { heading: 'max µs before', digits: 0 },
  saturationPercent: { heading: 'rate % of most', digits: 0 },
  spreadPercent: { heading: 'uneven %', digits: 1 },
  dispatcherCpuUs: { heading: 'CPU µs', digits: 2 },
  workersCpuUs: { heading: 'workers CPU µs', digits: 1 },
  dispatcherSwitches: { heading: 'switches', digits: 2 },
  workersSwitches: { heading: 'workers switches', digits: 2 },
  elsewherePercent: { heading: 'elsewhere %', digits: 0 },
  dispatcherSyscalls: { heading: 'syscalls', digits: 2 },
  workersSyscalls: { heading: 'workers syscalls', digits: 1 },
  mebibytesPerSecond: { heading: 'MiB/s', digits: 0 },
  held: { heading: 'held', digits: 0 },
  dispatcherDescriptors: { heading: 'descriptors', digits: 3 },
  dispatcherBytes: { heading: 'bytes', digits: 0 },
  workersBytes: { heading: 'workers bytes', digits: 0 },
  dispatcherMebibytes: { heading: 'MiB in all', digits: 1 },
  dispatcherIdleCpu: { heading: 'CPU µs per s', digits: 0 },
  othersP50Us: { heading: 'others p50 µs', digits: 0 },
  othersP99Us: { heading: 'others p99 µs', digits: 0 },
  othersP999Us: { heading: 'others p99.9 µs', digits: 0 },
};

export function headingOf(figure: FigureName): string {
  return tellings[figure].heading;
}

export function tell(figure: FigureName, value: number): string {
  return tellNumber(value, tellings[figure].digits);
}

export function tellNumber(value: number, digits: number): string {
  return value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
