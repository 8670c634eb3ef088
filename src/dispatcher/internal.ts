// What a service needs of a takeover between two generations of its dispatcher; the package does not export it.
export { awaitGo, handOver, takeOver, takeoverError, type Attachment } from './succession/takeover.js';
export { TAKEOVER_FORMAT, TakeoverChannel, type TakeoverMessage } from './succession/takeover-channel.js';
