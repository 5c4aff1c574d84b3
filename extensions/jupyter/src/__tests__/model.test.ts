// SPDX-License-Identifier: BSD-3-Clause
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { losses, see } from '../alerts';
import { RequestError } from '../api';
import { SealroomModel } from '../model';
import { connection, dataset, status, trans } from './fixtures';
import type { Answers, ICall } from './fixtures';

const FRESH = { expires: new Date(Date.now() + 600_000).toISOString() };

function refused(): Response {
  const body = {
    message: 'The broker refused to release the keys.',
    advice: 'Ask the owner.',
    reasons: [{ code: 'grant.none', sentence: 'You have no grant.' }]
  };
  return Response.json(body, { status: 403 });
}

function answering(answers: Answers = {}): Answers {
  return {
    status: () => status(FRESH),
    datasets: () => ({ datasets: [dataset()] }),
    ...answers
  };
}

async function withModel(
  answers: Answers,
  use: (model: SealroomModel, calls: ICall[]) => Promise<void>
): Promise<void> {
  const calls: ICall[] = [];
  const model = new SealroomModel({ settings: connection(answers, calls), standby: 'never' });
  try {
    await model.refresh();
    await use(model, calls);
  } finally {
    model.dispose();
  }
}

async function failure(promise: Promise<unknown>): Promise<RequestError> {
  const error = await promise.then(
    () => undefined,
    reason => reason
  );
  assert.ok(error instanceof RequestError);
  return error;
}

test('takes status and datasets', async () => {
  await withModel(answering(), async model => {
    assert.equal(model.shown, 'simulated');
    assert.equal(model.dataset('heartbeats')?.state, 'locked');
    assert.equal(model.statusError, null);
  });
});

test('shows checking before the first answer', () => {
  const model = new SealroomModel({ settings: connection({}), standby: 'never' });
  assert.equal(model.shown, 'checking');
  model.dispose();
});

test('forgets an affirming state when the server stops answering', async () => {
  let up = true;
  const answers = answering({
    status: () => {
      if (!up) {
        throw new TypeError('fetch failed');
      }
      return status({ ...FRESH, tier: 'affirming' });
    }
  });
  await withModel(answers, async model => {
    assert.equal(model.shown, 'affirming');
    up = false;
    await model.refresh();
    assert.equal(model.shown, 'unknown');
    assert.equal(model.statusError?.message, 'The notebook server does not answer.');
  });
});

test('keeps the status when only the broker is away', async () => {
  const answers = answering({
    datasets: () => Response.json({ message: 'The broker does not answer.' }, { status: 502 })
  });
  await withModel(answers, async model => {
    assert.equal(model.shown, 'simulated');
    assert.equal(model.datasetsError?.message, 'The broker does not answer.');
  });
});

test('says that the server extension is missing', async () => {
  await withModel({}, async model => {
    assert.match(model.statusError?.message ?? '', /server extension is not running/);
  });
});

test('an answer that is not JSON is an error', async () => {
  await withModel(answering({ status: () => new Response('<html>') }), async model => {
    assert.equal(model.shown, 'unknown');
  });
});

test('unlock sends the purpose and takes the new state', async () => {
  const open = dataset({ state: 'unlocked' });
  const answers = answering({ 'datasets/heartbeats/unlock': () => open });
  await withModel(answers, async (model, calls) => {
    await model.unlock('heartbeats', 'DUO:0000042');
    assert.equal(model.dataset('heartbeats')?.state, 'unlocked');
    const call = calls.find(({ path }) => path === 'datasets/heartbeats/unlock');
    assert.equal(call?.method, 'POST');
    assert.deepEqual(JSON.parse(call?.body ?? ''), { purpose: 'DUO:0000042' });
  });
});

test('a refusal keeps message, advice and reasons, and no longer than it holds', async () => {
  let state: 'locked' | 'unlocked' = 'locked';
  const answers = answering({
    datasets: () => ({ datasets: [dataset({ state })] }),
    'datasets/heartbeats/unlock': refused
  });
  await withModel(answers, async model => {
    const error = await failure(model.unlock('heartbeats', 'x'));
    assert.equal(error.status, 403);
    assert.equal(error.advice, 'Ask the owner.');
    assert.deepEqual(error.reasons, [{ code: 'grant.none', sentence: 'You have no grant.' }]);
    await model.refresh();
    assert.equal(model.failure('heartbeats'), error);
    assert.equal(model.isBusy('heartbeats'), false);
    state = 'unlocked';
    await model.refresh();
    assert.equal(model.failure('heartbeats'), null);
  });
});

test('a list that was asked for before an unlock does not undo it', async () => {
  let release: (value: object) => void = () => undefined;
  let first = true;
  const slow = new Promise<object>(resolve => (release = resolve));
  const answers = answering({
    datasets: () => {
      if (first) {
        first = false;
        return slow;
      }
      return { datasets: [dataset({ state: 'unlocked' })] };
    },
    'datasets/heartbeats/unlock': () => dataset({ state: 'unlocked' })
  });
  const model = new SealroomModel({ settings: connection(answers), standby: 'never' });
  const before = model.refresh();
  await new Promise(resolve => setTimeout(resolve, 20));
  await model.unlock('heartbeats', 'x');
  release({ datasets: [dataset({ state: 'locked' })] });
  await before;
  await model.refresh();
  assert.equal(model.dataset('heartbeats')?.state, 'unlocked');
  model.dispose();
});

test('an id is encoded in the path', async () => {
  const answers = answering({ 'datasets/a%2Fb/request-preview': () => ({ items: [] }) });
  await withModel(answers, async model => {
    assert.deepEqual(await model.preview('a/b'), []);
  });
});

test('a failed proof is an error and changes nothing shown', async () => {
  await withModel(answering({ prove: refused }), async model => {
    await failure(model.prove());
    assert.equal(model.proveError?.reasons[0].code, 'grant.none');
    assert.equal(model.proving, false);
  });
});

test('a proof that succeeded is shown at once', async () => {
  const answers = answering({ prove: () => status({ ...FRESH, tier: 'contraindicated' }) });
  await withModel(answers, async model => {
    await model.prove();
    assert.equal(model.shown, 'contraindicated');
  });
});

test('evidence is the text of the answer over the given nonce', async () => {
  await withModel(answering({ evidence: () => ({ report: 'AA==' }) }), async (model, calls) => {
    assert.deepEqual(JSON.parse(await model.evidence('00ff')), { report: 'AA==' });
    assert.deepEqual(JSON.parse(calls.at(-1)?.body ?? ''), { nonce: '00ff' });
  });
});

test('expiry is judged by the clock of the server', async () => {
  const later = new Date(Date.now() + 3_600_000).toUTCString();
  const answers = answering({
    status: () =>
      Response.json(status({ ...FRESH, tier: 'affirming' }), { headers: { Date: later } })
  });
  await withModel(answers, async model => {
    assert.equal(model.shown, 'checking');
  });
});

test('alerts name the loss of the proof and of access, once, with the reason', async () => {
  let lost = false;
  const reasons = [{ code: 'grant.withdrawn', sentence: 'The owner withdrew it.' }];
  const answers = answering({
    status: () => status(lost ? { tier: 'contraindicated', phase: 'refused' } : FRESH),
    datasets: () => ({
      datasets: [dataset(lost ? { state: 'withdrawn', reasons } : { state: 'unlocked' })]
    })
  });
  await withModel(answers, async model => {
    const before = see(model);
    assert.deepEqual(losses(before, model, trans), []);
    lost = true;
    await model.refresh();
    const alerts = losses(before, model, trans);
    assert.deepEqual(
      alerts.map(alert => alert.kind),
      ['error', 'warning']
    );
    assert.match(alerts[1].message, /Heartbeats.*The owner withdrew it\./);
    assert.deepEqual(losses(see(model), model, trans), []);
  });
});
