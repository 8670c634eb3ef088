#!/usr/bin/env node
// passfd: the command line. Exit codes: 0 done, 1 failed, 2 wrong usage.
import { CommanderError } from 'commander';

import { createProgram } from './program.js';
import { PassfdError } from '../fd/index.js';
import { warn } from './tell.js';

const FAILED = 1;
const WRONG_USAGE = 2;

try {
  await createProgram().parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
}

function exitCodeOf(error: unknown): number {
  // Commander has printed it. Its help and its version end it with 0.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : WRONG_USAGE;
  if (!(error instanceof PassfdError)) throw error;
  warn(error.message);
  return FAILED;
}
