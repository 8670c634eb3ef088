// What the proxies are told: listen at a socket that they inherit, and bring each connection to the next worker.
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Backend {
  readonly name: string;
  readonly port: number;
}

interface Nginx {
  readonly directory: string;
  /** Of the socket that it inherits, which it knows by its address. */
  readonly port: number;
  readonly backends: readonly Backend[];
  /** See `nginxStream`. */
  readonly stream: string;
}

/** Both ends of 10,000 connections, and some. */
const NGINX_CONNECTIONS = 20_480;

/**
 * What makes this nginx know `stream`: the line that loads its module, or nothing where it is built in.
 * @returns undefined where there is none
 */
export function nginxStream(nginx: string): string | undefined {
  const { stderr } = spawnSync(nginx, ['-V'], { encoding: 'utf8' });
  if (/--with-stream(?= |$)/m.test(stderr)) return '';
  const [, modules = ''] = /--modules-path=(\S+)/.exec(stderr) ?? [];
  const module = join(modules, 'ngx_stream_module.so');
  return existsSync(module) ? `load_module ${module};` : undefined;
}

/** As packaged, but for what a trial needs: no daemon, no files but its own. @returns the path of the file */
export function nginxConfiguration({ directory, port, backends, stream }: Nginx): string {
  const file = join(directory, 'nginx.conf');
  const servers = backends.map((backend) => `    server 127.0.0.1:${backend.port};`);
  writeFileSync(
    file,
    `${stream}
daemon off;
pid ${directory}/nginx.pid;
worker_processes auto;
error_log stderr;
events {
  worker_connections ${NGINX_CONNECTIONS};
}
stream {
  upstream workers {
${servers.join('\n')}
  }
  server {
    listen 127.0.0.1:${port};
    proxy_pass workers;
  }
}
`,
  );
  return file;
}

interface Haproxy {
  readonly directory: string;
  readonly backends: readonly Backend[];
  readonly listenFd: number;
}

/** One thread for each core, which is its own choice. @returns the path of the file */
export function haproxyConfiguration({ directory, backends, listenFd }: Haproxy): string {
  const file = join(directory, 'haproxy.cfg');
  const servers = backends.map(({ name, port }) => `  server ${name} 127.0.0.1:${port}`);
  writeFileSync(
    file,
    `defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend clients
  bind fd@${listenFd}
  default_backend workers
backend workers
  balance roundrobin
${servers.join('\n')}
`,
  );
  return file;
}
