// What systemd, or another service manager that speaks as it does, gives to a service and hears from it.
export { isDescriptorName, storedName } from './descriptor-name.js';
export { takeVariables } from './environment.js';
export { inheritedDescriptors, listenersNamed, type InheritedDescriptor } from './inherited.js';
export { matchListeners, type Matches, type Surroundings } from './match.js';
export { Notifier, type NotifierOptions, type NotifyVariables } from './notifier.js';
