#!/usr/bin/env node
// passfd: the command line. Exit codes: 0 done, 1 failed, 2 wrong usage.
import { CommanderError } from 'commander';

import { warn } from './tell.js';

const FAILED = 1;
const WRONG_USAGE = 2;

try {
  // Not imported above: that fails where there is no addon for this machine, which is told as any other failure.
  const { createProgram } = await import('./program.js');
  await createProgram().parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
}

function exitCodeOf(error: unknown): number {
  // Commander has printed it. Its help and its version end it with 0.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : WRONG_USAGE;
  // By name, since the class comes with the addon.
  if (!(error instanceof Error) || error.name !== 'PassfdError') throw error;
  warn(error.message);
  return FAILED;
}
