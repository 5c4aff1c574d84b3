// SPDX-License-Identifier: BSD-3-Clause
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { answers, losses, see } from '../alerts';
import { RequestError } from '../api';
import type { IRequest } from '../api';
import {
  countCharacters,
  endOfDay,
  inputDay,
  issuerHost,
  MAX_REASON,
  proofCommand
} from '../format';
import { SealroomModel } from '../model';
import { canAsk, ruleLabel } from '../tiers';
import { connection, dataset, request, status, trans } from './fixtures';
import type { Answers, ICall } from './fixtures';

const FRESH = { expires: new Date(Date.now() + 600_000).toISOString() };
const LOGIN = {
  issuer: 'https://login.example/realms/lab',
  ways: ['browser' as const],
  state: 'out' as const,
  name: '',
  until: null,
  renews: false,
  error: null
};

/** A server extension whose answers a test changes between two looks. */
function server(more: Answers = {}): { answers: Answers; requests: IRequest[] } {
  const requests: IRequest[] = [];
  return {
    requests,
    answers: {
      status: () => status(FRESH),
      datasets: () => ({
        datasets: [dataset({ state: 'not_granted', purposes: [] })],
        purposes: [{ code: 'DUO:0000042', label: 'general research use' }]
      }),
      requests: () => ({ requests: [...requests] }),
      ...more
    }
  };
}

async function withModel(
  answering: Answers,
  use: (model: SealroomModel, calls: ICall[]) => Promise<void>
): Promise<void> {
  const calls: ICall[] = [];
  const model = new SealroomModel({ settings: connection(answering, calls), standby: 'never' });
  try {
    await model.refresh();
    await use(model, calls);
  } finally {
    model.dispose();
  }
}

test('a request is sent with its words and shown before the next poll', async () => {
  const { answers: answering } = server({ 'datasets/heartbeats/ask': () => request() });
  await withModel(answering, async (model, calls) => {
    const words = {
      purpose: 'DUO:0000042',
      reason: 'To train.',
      until: '2027-01-31T22:59:59.000Z'
    };
    await model.askForAccess('heartbeats', words);
    assert.equal(model.request('heartbeats')?.state, 'open');
    const call = calls.find(({ path }) => path === 'datasets/heartbeats/ask');
    assert.deepEqual(JSON.parse(call?.body ?? ''), words);
    assert.equal(model.isBusy('heartbeats'), false);
  });
});

test('a request that the broker refuses rejects with its reasons and is not shown', async () => {
  const refused = (): Response =>
    Response.json(
      {
        message: 'There is an open request already.',
        reasons: [{ code: 'request.open', sentence: 'Open.' }]
      },
      { status: 403 }
    );
  const { answers: answering } = server({ 'datasets/heartbeats/ask': refused });
  await withModel(answering, async model => {
    const words = { purpose: 'DUO:0000042', reason: 'To train.', until: null };
    const error = await model.askForAccess('heartbeats', words).catch(reason => reason);
    assert.ok(error instanceof RequestError);
    assert.equal(error.reasons[0].code, 'request.open');
    assert.equal(model.request('heartbeats'), undefined);
  });
});

test('the newest request that was not taken back stands for a dataset', async () => {
  const { answers: answering, requests } = server();
  requests.push(
    request({ id: 'c', state: 'withdrawn', created: '2026-11-24T09:03:00Z' }),
    request({ id: 'b', state: 'refused', created: '2026-11-24T09:02:00Z' }),
    request({ id: 'a', state: 'granted', created: '2026-11-24T09:01:00Z' })
  );
  await withModel(answering, async model => {
    assert.equal(model.request('heartbeats')?.id, 'b');
    assert.equal(model.request('another'), undefined);
  });
});

test('a request that was taken back is gone from the card', async () => {
  const { answers: answering, requests } = server({
    'requests/r1/take-back': () => request({ state: 'withdrawn' })
  });
  requests.push(request());
  await withModel(answering, async model => {
    await model.takeBack(requests[0]);
    assert.equal(model.request('heartbeats'), undefined);
  });
});

test('a request that cannot be taken back says why on the card', async () => {
  const { answers: answering, requests } = server({
    'requests/r1/take-back': () =>
      Response.json({ message: 'It was answered already.' }, { status: 502 })
  });
  requests.push(request());
  await withModel(answering, async model => {
    await assert.rejects(model.takeBack(requests[0]), /answered already/);
    assert.equal(model.failure('heartbeats')?.message, 'It was answered already.');
  });
});

test('an owner’s yes and no are told once, with their words', async () => {
  const { answers: answering, requests } = server();
  requests.push(request(), request({ id: 'r2', dataset: 'scans', title: 'Scans' }));
  await withModel(answering, async model => {
    let seen = see(model);
    requests.splice(
      0,
      2,
      request({ state: 'granted', answer: 'Welcome.' }),
      request({ id: 'r2', title: 'Scans', state: 'refused', answer: 'Ask the committee.' })
    );
    await model.refresh();
    assert.deepEqual(answers(seen, model, trans), [
      { kind: 'success', message: 'Access to “Heartbeats” granted. The owner says: Welcome.' },
      { kind: 'warning', message: 'Access to “Scans” refused. The owner says: Ask the committee.' }
    ]);
    seen = see(model);
    await model.refresh();
    assert.deepEqual(answers(seen, model, trans), []);
  });
});

test('answers that were there before the page was opened are no news', async () => {
  const { answers: answering, requests } = server();
  requests.push(request({ state: 'granted' }));
  const model = new SealroomModel({ settings: connection(answering), standby: 'never' });
  const before = see(model);
  await model.refresh();
  assert.deepEqual(answers(before, model, trans), []);
  model.dispose();
});

test('taking back is no answer', async () => {
  const { answers: answering, requests } = server();
  requests.push(request());
  await withModel(answering, async model => {
    const seen = see(model);
    requests[0] = request({ state: 'withdrawn' });
    await model.refresh();
    assert.deepEqual(answers(seen, model, trans), []);
  });
});

test('requests stay shown while the broker cannot be asked for them', async () => {
  let up = true;
  const { answers: answering, requests } = server();
  requests.push(request());
  answering.requests = () => (up ? { requests } : new Response('', { status: 503 }));
  await withModel(answering, async model => {
    up = false;
    await model.refresh();
    assert.equal(model.requests?.length, 1);
  });
});

test('a narrowed grant is told although the dataset is only locked', async () => {
  let state = dataset({ state: 'unlocked' });
  const { answers: answering } = server({ datasets: () => ({ datasets: [state] }) });
  await withModel(answering, async model => {
    const seen = see(model);
    state = dataset({
      state: 'locked',
      ended: {
        code: 'release.withdrawn',
        sentence: 'Your grant was narrowed.',
        advice: 'Unlock it again.',
        at: '2026-11-24T10:00:00Z'
      }
    });
    await model.refresh();
    assert.deepEqual(losses(seen, model, trans), [
      {
        kind: 'warning',
        message: 'Access to “Heartbeats” has ended. Your grant was narrowed. Unlock it again.'
      }
    ]);
  });
});

test('locking by hand is told by nobody', async () => {
  let state = dataset({ state: 'unlocked' });
  const { answers: answering } = server({ datasets: () => ({ datasets: [state] }) });
  await withModel(answering, async model => {
    const seen = see(model);
    state = dataset({ state: 'locked' });
    await model.refresh();
    assert.deepEqual(losses(seen, model, trans), []);
  });
});

test('explain asks for a purpose or for any', async () => {
  const found = { dataset: 'heartbeats', title: '', purpose: null, allowed: false, ask: '' };
  const { answers: answering } = server({ 'datasets/heartbeats/explain': () => found });
  await withModel(answering, async (model, calls) => {
    assert.deepEqual((await model.explain('heartbeats', '')).rules, []);
    await model.explain('heartbeats', 'DUO:0000042');
    const asked = calls.filter(({ path }) => path.endsWith('/explain'));
    assert.deepEqual(
      asked.map(({ query }) => new URLSearchParams(query).get('purpose')),
      [null, 'DUO:0000042']
    );
  });
});

test('releases are listed, and a proof is the text of a file', async () => {
  const one = {
    index: 8,
    time: '2026-11-24T10:00:00Z',
    dataset: 'heartbeats',
    title: '',
    purpose: { code: 'DUO:0000042', label: 'general research use' },
    grant: 'g',
    key: 'log+00+AA'
  };
  const { answers: answering } = server({
    releases: () => ({ releases: [one] }),
    'releases/8/proof': () => ({ name: 'eight.tlog-proof', text: 'c2sp' })
  });
  await withModel(answering, async model => {
    await model.loadReleases();
    assert.deepEqual(
      model.releases?.map(({ index }) => index),
      [8]
    );
    assert.deepEqual(await model.proof(8), { name: 'eight.tlog-proof', text: 'c2sp' });
  });
});

test('releases that cannot be had are an error, not an empty list', async () => {
  const { answers: answering } = server({
    releases: () => Response.json({ message: 'The broker is away.' }, { status: 503 })
  });
  await withModel(answering, async model => {
    await model.loadReleases();
    assert.equal(model.releases, null);
    assert.equal(model.releasesError?.message, 'The broker is away.');
  });
});

test('logging out forgets whose requests and releases were shown', async () => {
  const { answers: answering, requests } = server({
    logout: () => status({ ...FRESH, login: LOGIN }),
    releases: () => ({ releases: [] })
  });
  requests.push(request());
  await withModel(answering, async model => {
    await model.loadReleases();
    // The answer to a poll that was under way belongs to the person who is gone.
    answering.requests = () => ({ requests: [] });
    await model.logOut();
    assert.equal(model.status?.login?.state, 'out');
    assert.equal(model.request('heartbeats'), undefined);
    assert.equal(model.releases, null);
  });
});

test('a login in the browser tells the server where the page is', async () => {
  const { answers: answering } = server({
    'login/browser': () => ({ url: 'https://login.example' })
  });
  await withModel(answering, async (model, calls) => {
    assert.equal(await model.logInInBrowser('https://hub.example'), 'https://login.example');
    const call = calls.find(({ path }) => path === 'login/browser');
    assert.deepEqual(JSON.parse(call?.body ?? ''), { origin: 'https://hub.example' });
  });
});

test('characters are counted as the broker counts them', () => {
  assert.equal(countCharacters('héart 🫀'), 7);
  assert.equal(MAX_REASON, 2000);
});

test('a day ends with its last second, and what is no day has no end', () => {
  const end = new Date(endOfDay('2027-01-31') ?? '');
  assert.equal(inputDay(end), '2027-01-31');
  assert.deepEqual([end.getHours(), end.getMinutes(), end.getSeconds()], [23, 59, 59]);
  for (const day of ['', '2027-02-31', '2027-1-1', 'tomorrow']) {
    assert.equal(endOfDay(day), null);
  }
});

test('the command that checks a proof names the file and a key from elsewhere', () => {
  assert.equal(
    proofCommand('sealroom-release-8.tlog-proof'),
    'sealroom audit check-proof sealroom-release-8.tlog-proof --key audit.pub'
  );
  assert.match(proofCommand('a b'), /'a b'/);
});

test('an issuer is known by its host', () => {
  assert.equal(issuerHost(LOGIN.issuer), 'login.example');
  assert.equal(issuerHost('no address'), 'no address');
});

test('one asks for what one has no access to, and not for what is open or elsewhere', () => {
  const states = ['not_granted', 'expired', 'withdrawn', 'refused', 'locked', 'unlocked', 'absent'];
  assert.deepEqual(
    states.map(state => canAsk(state as Parameters<typeof canAsk>[0])),
    [true, true, true, true, false, false, false]
  );
});

test('an outcome that is not known is never a pass', () => {
  assert.equal(ruleLabel('passed', trans), 'Passed');
  assert.equal(ruleLabel('failed', trans), 'Failed');
  assert.equal(ruleLabel('surprise' as 'passed', trans), 'Not looked at');
});
