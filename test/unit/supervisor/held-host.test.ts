// A host whose events are held back: they are delivered later in their order, or never.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { HeldHost } from '../../../src/supervisor/held-host.js';
import { turns } from '../../support/loop.js';
import { failure, FakeHost } from './stage.js';

class Scene {
  readonly host = new FakeHost();
  readonly held = new HeldHost(this.host);
  readonly news: string[] = [];

  /** A timer that records its name. */
  timer(name: string, delayMs: number): { clear(): void } {
    return this.held.setTimer(() => this.news.push(name), delayMs);
  }
}

describe('a host that is frozen', () => {
  it('delivers events in their order when it thaws', async () => {
    const { host, held, news } = new Scene();
    held.spawn(
      () => {
        throw new Error('nothing to start');
      },
      ({ is }) => news.push(is),
      () => undefined,
    );
    await held.freeze();
    held.setTimer(() => news.push('one'), 10);
    held.watch(host.earlier(1, 51), () => news.push('ended'));
    host.process(51).exit(failure);
    host.pass(10);
    await turns();
    assert.deepEqual(news, []);
    held.thaw();
    assert.deepEqual(news, ['not-started', 'ended', 'one']);
  });

  it('does not deliver a timer that fired meanwhile and was cleared since', async () => {
    const scene = new Scene();
    const second = scene.timer('second', 20);
    scene.held.setTimer(() => {
      second.clear();
    }, 10);
    await scene.held.freeze();
    scene.host.pass(20);
    scene.held.thaw();
    assert.deepEqual(scene.news, []);
  });

  it('delivers each event once, however often it thaws', async () => {
    const scene = new Scene();
    scene.timer('one', 10);
    await scene.held.freeze();
    scene.host.pass(10);
    scene.held.thaw();
    scene.held.thaw();
    assert.deepEqual(scene.news, ['one']);
  });
});

describe('a host that is disowned', () => {
  it('delivers nothing, keeps nothing, starts no timer and sends no signal', async () => {
    const { host, held, news } = new Scene();
    held.setTimer(() => news.push('timer'), 10);
    held.watch(host.earlier(1, 51), () => news.push('ended'));
    await held.freeze();
    host.pass(10);
    await held.disown();
    held.setTimer(() => news.push('late'), 10);
    held.kill({ pid: 51 }, 'SIGTERM');
    assert.deepEqual([host.timers, host.watches, host.process(51).signals], [0, 0, []]);
    held.thaw();
    host.pass(60_000);
    assert.deepEqual(news, []);
  });
});
