// The session ticket keys of TLS servers: derived from the secret that the workers of one address share, unless the app
// has keys of its own. A ticket is accepted only by servers that would have let its client in for the same reasons.
import { createHash, randomBytes, type Hash } from 'node:crypto';
import type { Server as NetServer } from 'node:net';
import { DEFAULT_CIPHERS, Server, type SecureContextOptions, type TlsOptions } from 'node:tls';

import type { TicketSecret } from '../handoff/index.js';

type Keys =
  /** Random ones, which Node has made. */
  | { readonly is: 'node' }
  /** The app has set them, and nobody else may. */
  | { readonly is: 'app' }
  | { readonly is: 'shared'; readonly secret: TicketSecret };

/** What decides whether a client is let in, as digests; undefined where it cannot be compared with another process. */
interface Authorization {
  /** Of every handshake. */
  readonly policy: string | undefined;
  /** Of clients that show a certificate. */
  readonly clients: string | undefined;
}

interface Known {
  keys: Keys;
  /** Of the server's own context. */
  own: Authorization;
  /** Of the contexts for other names, in the order in which they were added. */
  names: string | undefined;
  /** Whether functions of the app decide, too: they cannot be compared. */
  readonly hasPskCallback: boolean;
  readonly hasSniCallback: boolean;
}

/** `secureOptions` and `allowPartialTrustChain` are not in all types of Node. */
type ContextOptions = Readonly<Record<string, unknown>>;

/** `requestCert` and `rejectUnauthorized` are properties that Node reads for each connection (`lib/_tls_wrap.js`). */
interface AskingServer {
  readonly requestCert?: unknown;
  readonly rejectUnauthorized?: unknown;
}

const POLICY = [
  'minVersion',
  'maxVersion',
  'secureProtocol',
  'secureOptions',
  'sigalgs',
  'ecdhCurve',
  'dhparam',
  'sessionTimeout',
] as const;

/** A PKCS #12 file adds the authorities in it to those that are trusted. */
const CLIENTS = ['ca', 'crl', 'pfx', 'allowPartialTrustChain'] as const;

const incomparable: Authorization = { policy: undefined, clients: undefined };

const KEYS_BYTES = 48;

/** Servers that were made since this module was loaded. What others have been told nobody knows: they are left alone. */
const known = new WeakMap<NetServer, Known>();

const prototype = Server.prototype;
/* eslint-disable @typescript-eslint/unbound-method -- each is called with the server that it was called on */
const {
  setSecureContext: nodeSetSecureContext,
  setTicketKeys: nodeSetTicketKeys,
  addContext: nodeAddContext,
} = prototype;
/* eslint-enable @typescript-eslint/unbound-method */

// The constructor calls it, too, with all options of the app.
prototype.setSecureContext = named(nodeSetSecureContext, function (this: Server, options) {
  Reflect.apply(nodeSetSecureContext, this, [options]);
  const { ticketKeys, pskCallback, SNICallback } = options as TlsOptions;
  const server = known.get(this) ?? {
    keys: { is: 'node' },
    own: authorizationIn(options),
    names: '',
    hasPskCallback: Boolean(pskCallback),
    hasSniCallback: Boolean(SNICallback),
  };
  known.set(this, server);
  server.own = authorizationIn(options);
  if (ticketKeys) server.keys = { is: 'app' };
  setKeys(this, server);
});

prototype.addContext = named(nodeAddContext, function (this: Server, hostname, context) {
  Reflect.apply(nodeAddContext, this, [hostname, context]);
  const server = known.get(this);
  if (!server) return;
  // What a context that was made before has been given cannot be seen.
  const { policy, clients } = 'context' in context ? incomparable : authorizationIn(context);
  const parts = [server.names, hostname, policy, clients];
  server.names = parts.includes(undefined) ? undefined : digest(parts);
  setKeys(this, server);
});

prototype.setTicketKeys = named(nodeSetTicketKeys, function (this: Server, keys) {
  Reflect.apply(nodeSetTicketKeys, this, [keys]);
  const server = known.get(this);
  if (server) server.keys = { is: 'app' };
});

/**
 * What a server that is about to listen asks its dispatcher for.
 * @returns the secret that it has, or null; undefined for one that speaks no TLS, or has keys of its own
 */
export function ticketSecretOf(server: NetServer): TicketSecret | null | undefined {
  const keys = known.get(server)?.keys;
  if (!keys || keys.is === 'app') return undefined;
  return keys.is === 'shared' ? keys.secret : null;
}

/** Has a server share the ticket keys of its address from here on. */
export function shareTickets(server: NetServer, secret: TicketSecret): void {
  const found = known.get(server);
  if (!found || !(server instanceof Server) || found.keys.is === 'app') return;
  found.keys = { is: 'shared', secret };
  setKeys(server, found);
}

/** The server listens there no longer. Its keys stay: clients that it has accepted may be in their handshakes. */
export function stopSharingTickets(server: NetServer): void {
  const found = known.get(server);
  if (found?.keys.is === 'shared') found.keys = { is: 'node' };
}

function setKeys(server: Server, { keys, ...found }: Known): void {
  if (keys.is !== 'shared') return;
  const purpose = purposeOf(server, found);
  // Keys that were right before may be too many by now.
  const bytes = purpose === undefined ? randomBytes(KEYS_BYTES) : keys.secret.keysFor(purpose);
  Reflect.apply(nodeSetTicketKeys, server, [bytes]);
}

/**
 * Who resumes a session is let in without being asked again: so this names all that a client was asked, and servers that
 * ask anything else get other keys.
 */
function purposeOf(
  server: Server & AskingServer,
  { own, names, hasPskCallback, hasSniCallback }: Omit<Known, 'keys'>,
): string | undefined {
  if (hasPskCallback || own.policy === undefined) return undefined;
  if (server.requestCert === false) return digest(['anybody', own.policy]);
  if (own.clients === undefined || names === undefined || hasSniCallback) return undefined;
  const isDemanded = server.rejectUnauthorized !== false;
  return digest([isDemanded ? 'demanded' : 'asked', own.policy, own.clients, names]);
}

function authorizationIn(options: SecureContextOptions): Authorization {
  const given = options as ContextOptions;
  const { ciphers = DEFAULT_CIPHERS, ca } = given;
  return {
    policy: digest([ciphers, ...POLICY.map((name) => given[name])]),
    // Without it, the authorities are those of Node, the system and the environment.
    clients: ca ? digest(CLIENTS.map((name) => given[name])) : undefined,
  };
}

/** @returns undefined where something in it is neither text nor bytes */
function digest(value: unknown): string | undefined {
  const hash = createHash('sha256');
  return addTo(hash, value) ? hash.digest('base64') : undefined;
}

/** Each with its kind and length first, so that no two values have the same digest. */
function addTo(hash: Hash, value: unknown): boolean {
  if (value === undefined || value === null) {
    hash.update('none;');
    return true;
  }
  if (typeof value === 'string' || ArrayBuffer.isView(value)) {
    const bytes =
      typeof value === 'string'
        ? Buffer.from(value)
        : Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    hash.update(`bytes ${bytes.length};`).update(bytes);
    return true;
  }
  if (typeof value === 'number' || typeof value === 'boolean') {
    hash.update(`${typeof value} ${String(value)};`);
    return true;
  }
  if (Array.isArray(value)) {
    hash.update(`list ${value.length};`);
    return value.every((item) => addTo(hash, item));
  }
  if (typeof value !== 'object' || Object.getPrototypeOf(value) !== Object.prototype) return false;
  return addTo(
    hash,
    Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)),
  );
}

/** In the place of a function of Node, and with its name. */
function named<T extends (...args: never[]) => unknown>({ name, length }: T, replacement: T): T {
  return Object.defineProperties(replacement, { name: { value: name }, length: { value: length } });
}
