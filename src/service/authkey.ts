// Reads the key that a dispatcher, its workers and its commands share, from a file or from the environment.
import { open } from 'node:fs/promises';

import { PassfdError } from '../fd/index.js';

/** A key file wins over `PASSFD_AUTHKEY`. */
export interface AuthkeySource {
  readonly authkeyFile?: string | undefined;
}

/** The longest key file. */
const MAX_KEY_BYTES = 4096;

const OTHERS_CAN_READ = 0o044;

/**
 * @param warn called when other users can read the file
 * @returns undefined when there is no key: then only the user of a peer is checked
 * @throws {PassfdError} `ERR_AUTHENTICATION` when the file cannot be read or holds no key
 */
export async function readAuthkey(
  { authkeyFile }: AuthkeySource,
  warn: (message: string) => void,
): Promise<string | undefined> {
  if (authkeyFile === undefined) {
    const key = process.env['PASSFD_AUTHKEY'];
    return key === '' ? undefined : key;
  }
  const { bytes, mode } = await readKeyFile(authkeyFile);
  if ((mode & OTHERS_CAN_READ) !== 0) {
    warn(`Others can read the key in ${authkeyFile}; run: chmod 600 ${authkeyFile}`);
  }
  return keyIn(bytes, authkeyFile);
}

/** A newline at the end is not part of the key. The key is text, because workers get it in their environment. */
export function keyIn(bytes: Buffer, file: string): string {
  const key = bytes.toString().replace(/\r?\n$/, '');
  if (key === '') throw badKey(`There is no key in ${file}; create one: openssl rand -hex 32 > ${file}`);
  if (bytes.length > MAX_KEY_BYTES || key.includes('\0') || !Buffer.from(bytes.toString()).equals(bytes)) {
    throw badKey(`The key in ${file} is not text of at most ${MAX_KEY_BYTES} bytes`);
  }
  return key;
}

async function readKeyFile(file: string): Promise<{ bytes: Buffer; mode: number }> {
  try {
    await using handle = await open(file);
    const buffer = Buffer.alloc(MAX_KEY_BYTES + 1);
    const { bytesRead } = await handle.read(buffer);
    return { bytes: buffer.subarray(0, bytesRead), mode: (await handle.stat()).mode };
  } catch (cause) {
    throw badKey(`Cannot read the key in ${file}: ${(cause as Error).message}`, cause);
  }
}

function badKey(message: string, cause?: unknown): PassfdError {
  return new PassfdError('ERR_AUTHENTICATION', message, cause === undefined ? {} : { cause });
}
