// The contestants: each is a way for a connection to get from one port to one of several workers.
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

import { listen } from 'passfd';

import type { Programs } from '../native.js';
import { haproxyConfiguration, nginxConfiguration, nginxStream, type Backend } from './proxies.js';
import type { Settings } from './settings.js';
import type { Program, ReadyWorker, Stage } from './stage.js';

export interface Contestant {
  /** On the command line and in the results. */
  readonly name: string;
  /** For people. */
  readonly title: string;
  /** The works in which it is measured. */
  readonly works: readonly string[];
  /** Why it cannot be measured on this machine, in a sentence. */
  readonly missing?: () => string | undefined;
  start(scene: Scene): Promise<Service>;
}

export interface Scene {
  readonly stage: Stage;
  readonly programs: Programs;
  readonly settings: Settings;
}

export interface Service {
  readonly port: number;
  /** Processes that, with their descendants which are no workers, stand between clients and workers. */
  readonly dispatchers: readonly Program[];
  readonly workers: readonly ReadyWorker[];
}

const HTTP_AND_RAW = ['a', 'b', 'c', 'd', 'e', 'g'];
const ALL = [...HTTP_AND_RAW, 'f', 'h', 'i'];
/** The proxies are for the works where they differ from a dispatcher; with 64 workers they would be the same again. */
const PROXIES = [...HTTP_AND_RAW, 'h', 'i'];
/** The recipe's workers speak no HTTP, and serve one client at a time. */
const RECIPE = ['c', 'e'];

/** Any will do: the workers of the recipe always use one. */
const WITH_KEY = { PASSFD_AUTHKEY: 'benchmark' };

export const contestants: readonly Contestant[] = [
  {
    name: 'passfd-direct',
    title: 'passfd run, direct accept',
    works: ALL,
    start: (scene) => startRun(scene, 'direct'),
  },
  {
    name: 'passfd-run',
    title: 'passfd run, hand-off',
    works: ALL,
    start: (scene) => startRun(scene, 'hand-off'),
  },
  {
    name: 'passfd-serve',
    title: 'passfd serve, hand-off, joined workers',
    works: ALL,
    start: (scene) => startServe(scene),
  },
  {
    name: 'passfd-serve-least',
    title: 'passfd serve, least connections',
    works: ['h'],
    start: (scene) => startServe(scene, '--policy', 'least-connections'),
  },
  {
    name: 'limit',
    title: 'the limit (C), joined workers',
    works: ALL,
    start: startLimit,
  },
  {
    name: 'cluster',
    title: 'cluster, round robin',
    works: ALL,
    start: (scene) => startCluster(scene, 'rr'),
  },
  {
    name: 'cluster-shared',
    title: 'cluster, shared accept',
    works: ALL,
    start: (scene) => startCluster(scene, 'none'),
  },
  {
    name: 'reuse-port',
    title: 'SO_REUSEPORT',
    works: ALL,
    missing: withoutPython,
    start: startReusePort,
  },
  {
    name: 'alone',
    title: 'one Node process alone',
    works: HTTP_AND_RAW,
    start: startAlone,
  },
  {
    name: 'answer',
    title: 'a C server alone: what the load allows',
    works: ['a', 'b', 'c', 'd', 'e', 'i'],
    start: startAnswer,
  },
  {
    name: 'python',
    title: 'the recipe in Python',
    works: RECIPE,
    missing: withoutPython,
    start: startRecipe,
  },
  {
    name: 'passfd-python',
    title: "passfd serve, the recipe's workers",
    works: RECIPE,
    missing: withoutPython,
    start: startServeForRecipe,
  },
  {
    name: 'nginx',
    title: 'nginx stream, servers behind it',
    works: PROXIES,
    missing: withoutNginx,
    start: startNginx,
  },
  {
    name: 'haproxy',
    title: 'HAProxy in TCP mode, servers behind it',
    works: PROXIES,
    missing: withoutHaproxy,
    start: startHaproxy,
  },
];

function startRun(scene: Scene, accept: 'direct' | 'hand-off'): Promise<Service> {
  const workers = String(scene.settings.workers);
  return startParent(scene, passfd(scene, 'run', '--accept', accept, '--workers', workers, app('listen.js')));
}

function startServe(scene: Scene, ...options: readonly string[]): Promise<Service> {
  const args = passfd(scene, 'serve', '--accept', 'hand-off', '--listen', '127.0.0.1:0', ...options);
  return startJoined(scene, scene.stage.start(process.execPath, args));
}

function startLimit(scene: Scene): Promise<Service> {
  const { stage, programs, settings } = scene;
  const args = [
    '--listen',
    '127.0.0.1:0',
    '--control',
    control(scene),
    '--workers',
    String(settings.workers),
  ];
  return startJoined(scene, stage.start(programs.limit, args));
}

function startCluster(scene: Scene, policy: 'rr' | 'none'): Promise<Service> {
  return startParent(scene, [app('cluster.js'), policy, String(scene.settings.workers)]);
}

/** Each worker has a socket of its own; the first one has the kernel pick the port. */
async function startReusePort(scene: Scene): Promise<Service> {
  const { stage, settings } = scene;
  const start = (number: number, port: number): void => {
    const args = [source('on_reuse_port.py'), String(port), process.execPath, app('listen.js')];
    stage.start('python3', args, { env: { ...environment(scene, number), BENCH_LISTEN_FD: '3' } });
  };
  start(1, 0);
  const { port } = await stage.ready(1);
  for (let number = 2; number <= settings.workers; number++) start(number, known(port));
  const { workers } = await stage.ready(settings.workers);
  return { port: known(port), dispatchers: [], workers };
}

async function startAlone(scene: Scene): Promise<Service> {
  startListening(scene, 0);
  const { port, workers } = await scene.stage.ready(1);
  return { port: known(port), dispatchers: [], workers };
}

/** No contestant, but the proof that the load generator is not what limits them. */
async function startAnswer(scene: Scene): Promise<Service> {
  const { stage, programs, settings } = scene;
  const answer = stage.start(programs.answer, ['--app', settings.app, '--listen', '127.0.0.1:0'], {
    env: { BENCH_BULK_BYTES: String(settings.bulkBytes) },
  });
  const { port } = await stage.ready(0, true);
  return { port: known(port), dispatchers: [], workers: [{ number: 0, pid: answer.pid, port }] };
}

async function startRecipe(scene: Scene): Promise<Service> {
  const { stage, settings } = scene;
  const args = [source('recipe_server.py'), control(scene), String(settings.workers)];
  const server = stage.start('python3', args, { env: WITH_KEY });
  startRecipeWorkers(scene);
  const { port, workers } = await stage.ready(settings.workers, true);
  return { port: known(port), dispatchers: [server], workers };
}

/** Since the recipe's workers do not know where they serve, the socket is opened here. */
async function startServeForRecipe(scene: Scene): Promise<Service> {
  const { stage, settings } = scene;
  await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
  const args = passfd(scene, 'serve', '--listen', 'fd:3');
  const server = stage.start(process.execPath, args, { env: WITH_KEY, descriptors: [acceptor.fd] });
  startRecipeWorkers(scene);
  const { workers } = await stage.ready(settings.workers);
  return { port: portOf(acceptor), dispatchers: [server], workers };
}

function startNginx(scene: Scene): Promise<Service> {
  return startProxy(scene, ({ port, backends }) => {
    const nginx = find('nginx') ?? '';
    const { directory } = scene.stage;
    const file = nginxConfiguration({ directory, port, backends, stream: nginxStream(nginx) ?? '' });
    // It takes the descriptors that are named in NGINX for its listening sockets.
    return { command: nginx, args: ['-p', directory, '-c', file, '-e', 'stderr'], env: { NGINX: '3;' } };
  });
}

function startHaproxy(scene: Scene): Promise<Service> {
  return startProxy(scene, ({ backends }) => {
    const file = haproxyConfiguration({ directory: scene.stage.directory, backends, listenFd: 3 });
    return { command: find('haproxy') ?? '', args: ['-db', '-f', file] };
  });
}

/** A process that starts its workers by itself, at the port that they ask for. */
async function startParent(scene: Scene, args: readonly string[]): Promise<Service> {
  const { stage, settings } = scene;
  const parent = stage.start(process.execPath, args, { env: environment(scene) });
  const { port, workers } = await stage.ready(settings.workers);
  return { port: known(port), dispatchers: [parent], workers };
}

/** Workers that join at the control socket, and know the port when they have. */
async function startJoined(scene: Scene, dispatcher: Program): Promise<Service> {
  const { stage, settings } = scene;
  for (let number = 1; number <= settings.workers; number++) {
    const env = { ...environment(scene, number), BENCH_CONTROL: control(scene) };
    stage.start(process.execPath, [app('join.js')], { env });
  }
  const { port, workers } = await stage.ready(settings.workers);
  return { port: known(port), dispatchers: [dispatcher], workers };
}

function startRecipeWorkers(scene: Scene): void {
  for (let number = 1; number <= scene.settings.workers; number++) {
    const args = [source('recipe_worker.py'), control(scene), String(number)];
    scene.stage.start('python3', args, { env: WITH_KEY });
  }
}

/** Where a proxy takes its clients, and where it may bring them. */
interface Ways {
  readonly port: number;
  readonly backends: readonly Backend[];
}

interface Command {
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
}

/** The proxy inherits its listening socket, since nginx can neither have the kernel pick a port nor tell it. */
async function startProxy(scene: Scene, commandFor: (ways: Ways) => Command): Promise<Service> {
  const { stage, settings } = scene;
  for (let number = 1; number <= settings.workers; number++) startListening(scene, number);
  const { workers } = await stage.ready(settings.workers);
  const backends = workers.map(({ number, port }) => ({ name: `worker${number}`, port: known(port) }));
  await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
  const port = portOf(acceptor);
  const { command, args, env = {} } = commandFor({ port, backends });
  const proxy = stage.start(command, args, { env, descriptors: [acceptor.fd] });
  return { port, dispatchers: [proxy], workers };
}

function startListening(scene: Scene, number: number): void {
  scene.stage.start(process.execPath, [app('listen.js')], { env: environment(scene, number) });
}

/** What the app reads. @param number of the worker, where it is not told by who starts it */
function environment({ settings }: Scene, number?: number): NodeJS.ProcessEnv {
  return {
    BENCH_SETTINGS: JSON.stringify(settings),
    ...(number !== undefined && { BENCH_WORKER: String(number) }),
  };
}

function control({ stage }: Scene): string {
  return join(stage.directory, 'control');
}

/** The arguments of Node that run `passfd COMMAND`. */
function passfd(scene: Scene, command: string, ...args: readonly string[]): string[] {
  const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
  // Its workers need not wait for another dispatcher when the trial is over.
  const quiet = ['--log-level', 'warn', '--orphan-timeout', '1'];
  return [main, command, '--control', control(scene), ...quiet, ...args];
}

function app(name: string): string {
  return fileURLToPath(new URL(`apps/${name}`, import.meta.url));
}

/** Python is not compiled: it stays in the source tree, from `build/bench/dispatch`. */
function source(name: string): string {
  return fileURLToPath(new URL(`../../../bench/dispatch/apps/${name}`, import.meta.url));
}

/** Debian's packages put what an administrator runs where a user's PATH does not lead. */
export function find(command: string): string | undefined {
  const directories = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin'];
  return directories.map((directory) => join(directory, command)).find((path) => existsSync(path));
}

function withoutPython(): string | undefined {
  return find('python3') === undefined ? 'python3 is not installed.' : undefined;
}

function withoutNginx(): string | undefined {
  const nginx = find('nginx');
  if (nginx === undefined) return 'nginx is not installed (Debian: nginx-light, libnginx-mod-stream).';
  return nginxStream(nginx) === undefined
    ? 'This nginx has no module stream (Debian: libnginx-mod-stream).'
    : undefined;
}

function withoutHaproxy(): string | undefined {
  return find('haproxy') === undefined ? 'HAProxy is not installed (Debian: haproxy).' : undefined;
}

function portOf({ address }: { readonly address: object }): number {
  return known('port' in address ? (address.port as number) : undefined);
}

function known(port: number | undefined): number {
  if (port === undefined) throw new Error('Nobody has told the port');
  return port;
}
