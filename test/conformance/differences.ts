// What differs for an app under `passfd run`: each reason, and the tests of Node's that pass alone and not there for it.
// docs/compatibility.md and docs/operations.md describe them for users.

const byReason: Readonly<Record<string, readonly string[]>> = {
  'The address, and the private `_handle`, are asked for before `listening`: the dispatcher is asked first': [
    'parallel/test-gc-net-timeout.js',
    'parallel/test-handle-wrap-hasref.js',
    'parallel/test-http2-error-order.js',
    'parallel/test-net-connect-immediate-destroy.js',
    'parallel/test-net-connect-memleak.js',
    'parallel/test-net-connect-reset-before-connected.js',
    'parallel/test-net-server-keepalive.js',
    'parallel/test-net-server-nodelay.js',
    'parallel/test-net-socket-destroy-twice.js',
    'parallel/test-net-socket-reset-twice.js',
    'parallel/test-net-socket-timeout-unref.js',
    'parallel/test-tls-connect-memleak.js',
    'parallel/test-tls-passphrase.js',
  ],
  'A second listen, or one that fails, is to be known at once: the dispatcher is asked first': [
    'parallel/test-diagnostics-channel-net.js',
    'parallel/test-net-server-call-listen-multiple-times.js',
  ],
  '`close` comes within a turn of the event loop: here, when the dispatcher has let the address go': [
    'parallel/test-http2-allow-http1.js',
  ],
  'Beyond maxConnections a connection is dropped: here it waits, or goes to another worker': [
    'parallel/test-net-server-drop-connections.js',
    'parallel/test-net-server-max-connections-close-makes-more-available.js',
    'parallel/test-net-server-max-connections.js',
  ],
  'A server is passed on to a child process: its socket is the dispatcher’s': [
    'parallel/test-child-process-fork-net-server.js',
    'parallel/test-child-process-recv-handle.js',
    'parallel/test-child-process-send-returns-boolean.js',
    'parallel/test-listen-fd-cluster.js',
    'parallel/test-listen-fd-server.js',
    'parallel/test-net-listen-handle-in-cluster-1.js',
  ],
  'A descriptor to listen at is one of this process: here, of the dispatcher’s': [
    'parallel/test-net-server-listen-handle.js',
  ],
  'A relative path is short enough for a socket, but not from the root, where the dispatcher looks': [
    'parallel/test-cluster-net-listen-relative-path.js',
  ],
  'Parts inside Node are replaced before a module is loaded: the preload has loaded it': [
    'parallel/test-http-parser-lazy-loaded.js',
    'parallel/test-tls-clientcertengine-unsupported.js',
    'parallel/test-tls-keyengine-unsupported.js',
  ],
  'The private `_connectionKey` has the address that was chosen: here, the one that was asked for': [
    'parallel/test-net-listen-invalid-port.js',
    'sequential/test-net-server-bind.js',
  ],
  'While a domain is entered and not left, Node warns of any setImmediate (DEP0097): here, of the worker’s own':
    ['parallel/test-domain-multi.js'],
};

/** The tests that are known to differ, by name, each with its reason. */
export const differences: ReadonlyMap<string, string> = new Map(
  Object.entries(byReason).flatMap(([reason, names]) => names.map((name) => [name, reason] as const)),
);
