// The state of a worker in a takeover: its JSON is what other releases write and read.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import * as v from 'valibot';

import {
  encodeWorkerState,
  workerState,
  type PassfdWorkerState,
  type RecipeWorkerState,
} from '../../../src/dispatcher/succession/worker-state.js';

const passfd: PassfdWorkerState = {
  dialect: 'passfd',
  id: 1,
  pid: 100,
  isTrusted: true,
  isCustodian: false,
  knowsAgain: true,
  formerChild: { slot: 1, service: 'web' },
  state: 'ready',
  isStalled: false,
  window: 8,
  capacity: null,
  carried: 1,
  awaitedCustody: 0,
  adopted: 5,
  closed: 2,
  settled: 6,
  subscriptions: [{ listener: 3, servers: 1, isNew: false, sharesTickets: true }],
  givenBack: [{ key: 'wanted {"path":"/tmp/a"}', address: { path: '/tmp/a' }, backlog: 5 }],
  partial: Buffer.of(0, 255),
};

const passfdJson =
  '{"dialect":"passfd","id":1,"pid":100,"isTrusted":true,"isCustodian":false,"knowsAgain":true,' +
  '"formerChild":{"slot":1,"service":"web"},"state":"ready","isStalled":false,"window":8,"capacity":null,' +
  '"carried":1,"awaitedCustody":0,"adopted":5,"closed":2,"settled":6,' +
  '"subscriptions":[{"listener":3,"servers":1,"isNew":false,"sharesTickets":true}],' +
  '"givenBack":[{"key":"wanted {\\"path\\":\\"/tmp/a\\"}","address":{"path":"/tmp/a"},"backlog":5}],"partial":"AP8="}';

const recipe: RecipeWorkerState = {
  dialect: 'raw',
  id: 2,
  pid: 200,
  state: 'draining',
  adopted: 3,
  concurrency: 1,
  held: [{ bytes: Buffer.of(1, 2, 3) }],
  hasOthers: false,
  answer: 'O',
  isSent: true,
};

const recipeJson =
  '{"dialect":"raw","id":2,"pid":200,"state":"draining","adopted":3,"concurrency":1,"held":["AQID"],' +
  '"hasOthers":false,"answer":"O","isSent":true}';

/** What earlier releases write. */
const oldPassfd = {
  dialect: 'passfd',
  id: 1,
  pid: 100,
  isTrusted: true,
  isCustodian: false,
  state: 'starting',
  window: 8,
  capacity: 4,
  carried: 0,
  awaitedCustody: 0,
  adopted: 0,
  closed: 0,
  settled: 0,
  subscriptions: [{ listener: 3, servers: 1 }],
  partial: '',
};

describe('the state of a worker in a takeover', () => {
  for (const [state, json] of [
    [passfd, passfdJson],
    [recipe, recipeJson],
  ] as const) {
    it(`of the dialect ${state.dialect} has a fixed JSON form, and comes back from it`, () => {
      assert.equal(JSON.stringify(encodeWorkerState(state)), json);
      assert.deepEqual(v.parse(workerState, JSON.parse(json)), state);
    });
  }

  it('is accepted without the fields that earlier releases omit', () => {
    assert.deepEqual(v.parse(workerState, oldPassfd), { ...oldPassfd, partial: Buffer.alloc(0) });
  });

  it('is accepted with fields that later releases add', () => {
    const later = { ...encodeWorkerState(recipe), colour: 'green' };
    assert.deepEqual(v.parse(workerState, later), recipe);
  });
});
