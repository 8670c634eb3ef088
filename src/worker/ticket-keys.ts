// Ticket keys: which TLS servers accept each other's session tickets. Their keys come from the secret of their address, unless
// the app has set its own. A server accepts a ticket only from servers with the same rules for admitting clients.
import { createHash, randomBytes, type Hash } from 'node:crypto';
import type { Server as NetServer } from 'node:net';
import { DEFAULT_CIPHERS, Server, type SecureContextOptions, type TlsOptions } from 'node:tls';

import type { TicketSecret } from '../handoff/index.js';

type Keys =
  /** Random keys, which Node has made. */
  | { readonly is: 'node' }
  /** Keys that the app has set. passfd must not change them. */
  | { readonly is: 'app' }
  | { readonly is: 'shared'; readonly secret: TicketSecret };

/** The rules for admitting a client, as digests; undefined when they cannot be compared with those of another process. */
interface Authorization {
  /** The rules for every handshake. */
  readonly policy: string | undefined;
  /** The rules for clients that present a certificate. */
  readonly clients: string | undefined;
}

interface Known {
  keys: Keys;
  /** The rules of the server's own context. */
  own: Authorization;
  /** The rules of the contexts for other names, in the order in which they were added. */
  names: string | undefined;
  /** Whether functions of the app decide too. They cannot be compared. */
  readonly hasPskCallback: boolean;
  readonly hasSniCallback: boolean;
}

/** Not every version of Node's types has `secureOptions` and `allowPartialTrustChain`. */
type ContextOptions = Readonly<Record<string, unknown>>;

/** Properties that Node reads for each connection (`lib/_tls_wrap.js`). */
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

/** A PKCS #12 file (`pfx`) adds its authorities to the trusted ones. */
const CLIENTS = ['ca', 'crl', 'pfx', 'allowPartialTrustChain'] as const;

const incomparable: Authorization = { policy: undefined, clients: undefined };

const KEYS_BYTES = 48;

/** Servers that were made after this module was loaded. The options of older servers are unknown, so those are left alone. */
const known = new WeakMap<NetServer, Known>();

const prototype = Server.prototype;
/* eslint-disable @typescript-eslint/unbound-method -- each is called with the server that it was called on */
const {
  setSecureContext: nodeSetSecureContext,
  setTicketKeys: nodeSetTicketKeys,
  addContext: nodeAddContext,
} = prototype;
/* eslint-enable @typescript-eslint/unbound-method */

// The constructor calls it too, with all options of the app.
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
  // The options of a context that was made before cannot be read.
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
 * The secret that a server has before it asks the dispatcher for one, or null.
 * @returns undefined for a server without TLS, or with keys of the app
 */
export function ticketSecretOf(server: NetServer): TicketSecret | null | undefined {
  const keys = known.get(server)?.keys;
  if (!keys || keys.is === 'app') return undefined;
  return keys.is === 'shared' ? keys.secret : null;
}

/** Has a server share the ticket keys of its address from now on. */
export function shareTickets(server: NetServer, secret: TicketSecret): void {
  const found = known.get(server);
  if (!found || !(server instanceof Server) || found.keys.is === 'app') return;
  found.keys = { is: 'shared', secret };
  setKeys(server, found);
}

/** The server no longer listens there. Its keys stay, since accepted clients may be in their handshakes. */
export function stopSharingTickets(server: NetServer): void {
  const found = known.get(server);
  if (found?.keys.is === 'shared') found.keys = { is: 'node' };
}

function setKeys(server: Server, { keys, ...found }: Known): void {
  if (keys.is !== 'shared') return;
  const purpose = purposeOf(server, found);
  // Without a purpose, the server must leave the keys that it shared before.
  const bytes = purpose === undefined ? randomBytes(KEYS_BYTES) : keys.secret.keysFor(purpose);
  Reflect.apply(nodeSetTicketKeys, server, [bytes]);
}

/**
 * A client that resumes a session is not checked again. So the purpose names everything that a client was checked for, and
 * servers with other checks get other keys.
 * @returns undefined when the checks cannot be compared
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
    // Without `ca`, the authorities come from Node, the system and the environment.
    clients: ca ? digest(CLIENTS.map((name) => given[name])) : undefined,
  };
}

/** @returns undefined when the value contains anything but plain data */
function digest(value: unknown): string | undefined {
  const hash = createHash('sha256');
  return addTo(hash, value) ? hash.digest('base64') : undefined;
}

/** Adds each value with its kind and length first, so that different values have different digests. */
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

/** Gives the replacement of a function of Node the name and length of that function. */
function named<T extends (...args: never[]) => unknown>({ name, length }: T, replacement: T): T {
  return Object.defineProperties(replacement, { name: { value: name }, length: { value: length } });
}
