// The golden vectors that CPython made: test/interop/python-vectors.json.
import { readFileSync } from 'node:fs';

interface Frame {
  readonly from: 'listener' | 'client';
  readonly frame: string;
}

interface Handshake {
  readonly same_key: readonly Frame[];
  readonly client_key_wrong?: readonly Frame[];
}

interface Vectors {
  readonly key: string;
  readonly handshakes: Readonly<Record<string, Handshake>>;
  readonly challenge_responses: readonly {
    readonly challenge: string;
    readonly modern_response: string;
    readonly legacy_response: string;
  }[];
  readonly framing: readonly {
    readonly payload_hex: string;
    readonly frame: string;
    readonly note?: string;
  }[];
}

export const vectors = JSON.parse(
  readFileSync(new URL('../../../test/interop/python-vectors.json', import.meta.url), 'utf8'),
) as Vectors;
