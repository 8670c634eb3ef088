// What other parts of passfd use of this part, and the package does not export.
export { Crowd, originOf, type Origin } from './crowd.js';
