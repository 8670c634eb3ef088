// The service: what `passfd run` and `passfd serve` are, from the first process to the end of the last generation.
export { readAuthkey } from './authkey.js';
export { giveOwnInspectPort } from './inspect.js';
export { ANY_HOST, type WrittenAddress } from './listen-address.js';
export { logLevels, type LogLevel } from './log.js';
export { appCommand } from './node-command.js';
export { runService } from './service.js';
export {
  defaultSettings,
  MAX_BACKLOG,
  MAX_WORKERS,
  overloads,
  settingsFrom,
  type ServiceSettings,
} from './settings.js';
