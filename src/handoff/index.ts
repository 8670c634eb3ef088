// What goes over the control socket: hellos, the channel between dispatcher and worker, and commands.
// It also holds what both ends must agree on: the default path, whom to trust, and shared time limits.
export { Channel, type TakeGroup } from './channel.js';
export {
  decodeAnswer,
  decodeCommand,
  type Answer,
  type AnyCommandMessage,
  type CommandMessage,
} from './commands.js';
export { defaultControlPath, prepareControlDirectory } from './control-path.js';
export type { DescriptorGroup } from './frame-reader.js';
export {
  decodeIntroduction,
  encodeHello,
  formerChild,
  MAX_HELLO_BYTES,
  MAX_WINDOW,
  PROTOCOL_VERSION,
  refuseChallenge,
  type FormerChild,
  type Hello,
  type Introduction,
  type WorkerHello,
} from './hello.js';
export { Ledger } from './ledger.js';
export {
  address,
  decodeFromWorker,
  decodeToWorker,
  encodeAdopted,
  encodeClosed,
  encodeFrame,
  encodeHandoff,
  encodeHandoffAgain,
  encodeJson,
  encodeRefused,
  MAX_BATCH,
  MAX_LAST_WORDS,
  type FromWorker,
  type CustodyLabel,
  type Listening,
  type RefusalReason,
  type ToWorker,
  type WantedAddress,
} from './messages.js';
export { count, positive } from './numbers.js';
export { printable, printableLines, shortened } from './peer-text.js';
export { traceStep, type Step } from './steps.js';
export { TicketSecret, ticketSecretMessage, type TicketSecretMessage } from './ticket-secret.js';
export { checkDispatcher, isTrusted, MAX_USER_ID, trustedUsers, type TrustedUsers } from './trust.js';
export {
  DEFAULT_DRAIN_TIMEOUT_MS,
  DEFAULT_ORPHAN_TIMEOUT_MS,
  DEFAULT_READY_TIMEOUT_MS,
  KILL_AFTER_MS,
  RETURN_TIMEOUT_MS,
} from './time-limits.js';
export { callWorker, hasOtherUser, WayBack } from './way-back.js';
