#!/usr/bin/env node
// passfd: the command line. Exit codes: 0 success, 1 failure, 2 usage error.
import { CommanderError } from 'commander';

import { warn } from './output.js';

const FAILED = 1;
const WRONG_USAGE = 2;

try {
  // A static import would fail before this `try` where there is no addon for this machine.
  const { createProgram } = await import('./program.js');
  await createProgram().parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
}

function exitCodeOf(error: unknown): number {
  // Commander has printed the error. Help and version have exit code 0.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : WRONG_USAGE;
  // Compared by name, because the class is loaded with the addon.
  if (!(error instanceof Error) || error.name !== 'PassfdError') throw error;
  warn(error.message);
  return FAILED;
}
