// What the processes of a contestant are told, as JSON in the variable BENCH_SETTINGS.
export interface Settings {
  /** What the workers speak. */
  readonly app: 'http' | 'raw';
  readonly workers: number;
  /** Of one answer to "bulkGET". */
  readonly bulkBytes: number;
  /** The number of a worker that blocks its event loop at each request. */
  readonly slow?: number;
  /** The number of a worker whose event loop sleeps again and again, from its first SIGUSR2 on. */
  readonly sleepy?: number;
}
