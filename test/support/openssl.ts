// OpenSSL's own TLS client, which keeps its session in a file: whether it was resumed, and who answered.
import { spawnSync } from 'node:child_process';

import type { Start } from './program.js';

export const withoutOpenssl: string | false =
  spawnSync('openssl', ['version']).status === 0 ? false : 'needs the command openssl';

/**
 * Visits an HTTP server as `openssl s_client` does, with the session in a file if it has one, and keeps the next one there.
 * @param flags the version of TLS and the certificate to trust
 */
export async function visitByOpenssl(
  start: Start,
  port: number,
  { session, hasSession, flags }: { session: string; hasSession: boolean; flags: readonly string[] },
): Promise<{ readonly isResumed: boolean; readonly said: string }> {
  const client = start('openssl', [
    ...['s_client', '-connect', `127.0.0.1:${port}`, '-servername', 'localhost', '-ign_eof', ...flags],
    ...['-sess_out', session, ...(hasSession ? ['-sess_in', session] : [])],
  ]);
  client.say('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r');
  await client.exit;
  const printed = client.lines.join('\n');
  const [, how] = /^(New|Reused), TLSv1\.[23]/m.exec(printed) ?? [];
  if (how === undefined) throw new Error(`No session: ${printed}\n${await client.stderr}`);
  return { isResumed: how === 'Reused', said: printed };
}
