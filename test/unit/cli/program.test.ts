// The command line: the help, how a line is parsed, and wrong usage.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Command, CommanderError } from 'commander';

import { requireAcceptMode } from '../../../src/cli/options.js';
import { createProgram } from '../../../src/cli/program.js';
import { defaultControlPath } from '../../../src/handoff/index.js';

const control = ['--control <path>', '--authkey-file <file>'];
const client = [...control, '--trust-uid <uid>'];
const service = [
  '--workers <n>',
  '--listen <addr>',
  '--accept <mode>',
  '--policy <name>',
  '--overload <action>',
  '--backlog <n>',
  '--recipe-concurrency <n>',
  '--drain-timeout <ms>',
  '--ready-timeout <ms>',
  '--orphan-timeout <ms>',
  '--max-extra <n>',
  '--worker-env-file <file>',
  '--prefix-output',
  ...control,
  '--raw-control <path>',
  '--allow-uid <uid>',
  '--allow-gid <gid>',
  '--log-level <level>',
];

/** Every command and its options, in the order of its help. */
const commands: Readonly<Record<string, readonly string[]>> = {
  run: service,
  serve: service,
  worker: client,
  status: ['--json', ...client],
  restart: ['--without <addr>', ...client],
  takeover: client,
  drain: client,
  stop: client,
};

interface Line {
  readonly arguments: readonly unknown[];
  readonly options: Readonly<Record<string, unknown>>;
}

function quietProgram(): { program: Command; printed: string[] } {
  const program = createProgram();
  const printed: string[] = [];
  const write = (text: string): void => {
    printed.push(text);
  };
  for (const command of [program, ...program.commands]) {
    command.configureOutput({ writeOut: write, writeErr: write });
  }
  return { program, printed };
}

/** Parses a line, and runs nothing. */
async function read(...words: readonly string[]): Promise<Line> {
  const { program } = quietProgram();
  let line: Line | undefined;
  for (const command of program.commands) {
    command.action((...given: readonly unknown[]) => {
      // The options and the command follow the arguments.
      line = { arguments: given.slice(0, -2), options: command.opts() };
    });
  }
  await program.parseAsync(words, { from: 'user' });
  assert.ok(line, 'a command was read');
  return line;
}

/** Runs a line that fails before anything is started. @returns the exit code of commander, and what was printed */
async function end(...words: readonly string[]): Promise<{ exitCode: number; text: string }> {
  const { program, printed } = quietProgram();
  try {
    await program.parseAsync(words, { from: 'user' });
  } catch (error) {
    assert.ok(error instanceof CommanderError, String(error));
    return { exitCode: error.exitCode, text: printed.join('') };
  }
  throw new Error(`${words.join(' ')} is no usage error`);
}

async function helpOf(name: string): Promise<string> {
  return (await end(name, '--help')).text;
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ');
}

describe('passfd', () => {
  it('has these commands', () => {
    assert.deepEqual(
      createProgram().commands.map((command) => command.name()),
      Object.keys(commands),
    );
  });

  it('shows its version', async () => {
    const { exitCode, text } = await end('--version');
    assert.deepEqual([exitCode, /^\d+\.\d+\.\d+/.test(text)], [0, true]);
  });

  it('refuses a command that it does not know', async () => {
    const { exitCode, text } = await end('restrat');
    assert.deepEqual([exitCode, text.includes("unknown command 'restrat'")], [1, true]);
  });
});

for (const [name, options] of Object.entries(commands)) {
  describe(`passfd ${name} --help`, () => {
    it('lists its options, each with a description, and has an example', async () => {
      const { exitCode, text } = await end(name, '--help');
      assert.equal(exitCode, 0);
      const listed = [...text.matchAll(/^ {2}(--\S+(?: <\w+>)?) +\S/gm)].map(([, flags]) => flags);
      assert.deepEqual(listed, options);
      assert.match(text, new RegExp(`^Examples?:\\n {2}\\$ passfd ${name}`, 'm'));
    });
  });
}

describe('the help of run and serve', () => {
  for (const name of ['run', 'serve']) {
    it(`explains each form of an address, and the units and ends of its time limits: ${name}`, async () => {
      const text = await helpOf(name);
      for (const form of ['8080', '127.0.0.1:8080', '[::1]:8080', 'unix:/run/app.sock', 'fd:3', 'fd:web']) {
        assert.ok(text.includes(`\n  ${form} `), form);
      }
      assert.match(oneLine(text), /8080 port 8080 at every address of this machine/);
      assert.match(oneLine(text), /Times are in milliseconds/);
      assert.match(oneLine(text), /--drain-timeout <ms> [^-]*SIGTERM, and SIGKILL 2000 ms later/);
    });

    it(`says where the default control path comes from, and who may join: ${name}`, async () => {
      const text = oneLine(await helpOf(name));
      assert.ok(text.includes('$XDG_RUNTIME_DIR/passfd/control'), text);
      assert.ok(text.includes(defaultControlPath()), text);
      assert.match(text, /--allow-uid <uid> [^-]*in addition to root and the user of the dispatcher/);
    });
  }

  it('has a default number of workers where the command starts some', async () => {
    assert.match(oneLine(await helpOf('run')), /--workers <n> [^-]*default: "max"/);
    const serve = oneLine(await helpOf('serve'));
    assert.match(serve, /--workers <n> [^-]*needs a COMMAND/);
    assert.doesNotMatch(serve, /--workers <n> [^-]*\(default: "max"\)/);
  });
});

describe('the command line of run', () => {
  it('gives the app everything that follows it', async () => {
    const { arguments: words, options } = await read(
      ...['run', '--workers', '2', 'app.js', '--workers', '7', '--', '-v', 'word'],
    );
    assert.deepEqual(words, ['app.js', ['--workers', '7', '--', '-v', 'word']]);
    assert.equal(options['workers'], 2);
  });

  it('has defaults', async () => {
    const { options } = await read('run', 'app.js');
    assert.deepEqual(options, {
      control: defaultControlPath(),
      accept: 'auto',
      overload: 'wait',
      drainTimeout: 30_000,
      readyTimeout: 30_000,
      orphanTimeout: 60_000,
      maxExtra: 1,
      logLevel: 'info',
    });
  });

  it('takes an option that may be repeated as often as it comes', async () => {
    const { options } = await read(
      ...[
        'run',
        '--listen',
        '80',
        '--listen',
        'unix:/s',
        '--allow-uid',
        '0',
        '--allow-uid',
        '1000',
        'app.js',
      ],
    );
    assert.deepEqual(options['listen'], [{ host: '::', port: 80 }, { path: '/s' }]);
    assert.deepEqual(options['allowUid'], [0, 1_000]);
  });

  it('is a usage error without an app, or with one that does not exist', async () => {
    assert.match((await end('run')).text, /missing required argument 'app'/);
    assert.match((await end('run', 'missing.js')).text, /there is no file missing\.js in/);
    assert.match((await end('worker', 'missing.js')).text, /there is no file missing\.js in/);
  });

  it('is a usage error with a value that an option does not take', async () => {
    for (const [option, value] of [
      ['--workers', 'many'],
      ['--listen', '80:80:80'],
      ['--accept', 'shared'],
      ['--policy', 'random'],
      ['--recipe-concurrency', '0'],
      ['--drain-timeout', '10s'],
      ['--log-level', 'loud'],
      ['--nonsense', ''],
    ] as const) {
      const { exitCode, text } = await end('run', option, value, 'app.js');
      assert.notEqual(exitCode, 0);
      assert.ok(text.includes(option), text);
    }
  });
});

describe('the mode of accepting', () => {
  /** What is wrong with it, or an empty text. */
  const judge = (
    settings: Parameters<typeof requireAcceptMode>[1],
    platform: NodeJS.Platform = 'linux',
  ): string => {
    let printed = '';
    const command = new Command().exitOverride().configureOutput({
      writeErr: (text) => {
        printed += text;
      },
    });
    try {
      requireAcceptMode(command, settings, platform);
    } catch (error) {
      assert.ok(error instanceof CommanderError, String(error));
    }
    return printed;
  };

  it('is a usage error where it is direct and another option needs hand-off', () => {
    assert.match(
      judge({ accept: 'direct', policy: 'p2c', overload: 'wait' }),
      /--policy p2c needs the dispatcher to accept each connection: leave it out, or use --accept hand-off/,
    );
    assert.match(
      judge({ accept: 'direct', policy: undefined, overload: 'refuse' }),
      /--overload refuse needs the dispatcher to accept each connection/,
    );
  });

  it('is a usage error where it is direct and the system is not Linux', () => {
    assert.match(
      judge({ accept: 'direct', policy: undefined, overload: 'wait' }, 'darwin'),
      /--accept direct needs Linux: use --accept hand-off/,
    );
  });

  it('is right with any other option where it is auto or hand-off, and with none where it is direct', () => {
    for (const accept of ['auto', 'hand-off'] as const) {
      assert.equal(judge({ accept, policy: 'p2c', overload: 'refuse' }, 'darwin'), '');
    }
    assert.equal(judge({ accept: 'direct', policy: undefined, overload: 'wait' }), '');
  });
});

describe('the command line of serve', () => {
  it('takes a command, with or without two dashes before it', async () => {
    for (const dashes of [[], ['--']]) {
      const { arguments: words, options } = await read(
        ...['serve', '--listen', '80', '--workers', '4', ...dashes, 'python', 'worker.py', '--listen', 'x'],
      );
      assert.deepEqual(words, [['python', 'worker.py', '--listen', 'x']]);
      assert.deepEqual(options['listen'], [{ host: '::', port: 80 }]);
    }
  });

  it('is a usage error without an address', async () => {
    assert.match((await end('serve')).text, /required option '--listen <addr>' not specified/);
  });

  it('is a usage error with workers that have no command', async () => {
    assert.match((await end('serve', '--listen', '80', '--workers', '4')).text, /--workers needs a COMMAND/);
  });
});

describe('the command line of drain', () => {
  it('takes the number of a worker', async () => {
    assert.deepEqual((await read('drain', '3')).arguments, [3]);
    assert.match((await end('drain', 'three')).text, /A worker is given by its number/);
  });
});
