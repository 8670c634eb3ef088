// The interface of a service to systemd, or to a service manager that is compatible.
export { isDescriptorName, storedName } from './descriptor-name.js';
export { takeVariables } from './environment.js';
export { inheritedDescriptors, listenersNamed, type InheritedDescriptor } from './inherited.js';
export { matchListeners, type Matches, type Surroundings } from './match.js';
export { Notifier, type NotifierOptions, type NotifyVariables } from './notifier.js';
