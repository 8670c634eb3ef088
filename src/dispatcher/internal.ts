// What a service needs of a takeover between two generations of its dispatcher; the package does not export it.
export type { Attachment } from './succession/snapshot-stream.js';
export { awaitGo, handOver, takeOver, takeoverError } from './succession/takeover.js';
export { TakeoverChannel } from './succession/takeover-channel.js';
export {
  TAKEOVER_FORMAT,
  type OutgoingMessage,
  type TakeoverMessage,
} from './succession/takeover-messages.js';
