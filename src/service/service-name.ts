// ServiceName: identifies a service, so that its workers and its journal are not taken by another one.
import { createHash } from 'node:crypto';

/** Identifies a service. Its options, its environment and its Node may change. */
export interface ServiceName {
  /** The command of passfd, the app or program, and its arguments. */
  readonly words: readonly string[];
  readonly directory: string;
}

/** A short form of a service's name, which its workers get and give back when they return. */
export function fingerprint({ words, directory }: ServiceName): string {
  return createHash('sha256')
    .update(JSON.stringify([words, directory]))
    .digest('hex');
}

export function isSameService(one: ServiceName, other: ServiceName): boolean {
  return (
    one.directory === other.directory &&
    one.words.length === other.words.length &&
    one.words.every((word, index) => word === other.words[index])
  );
}

/** For messages. */
export function describeService({ words: [command = '', ...rest], directory }: ServiceName): string {
  return `passfd ${[command, ...rest].join(' ')} (in ${directory})`;
}
