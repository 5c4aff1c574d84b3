// SPDX-License-Identifier: BSD-3-Clause
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Condition, Phase, Tier } from '../api';
import {
  datasetReason,
  datasetShown,
  isCurrent,
  labelOf,
  sentencesOf,
  shownFor,
  toneOf
} from '../tiers';
import type { Shown } from '../tiers';
import { dataset, NOW, status, trans } from './fixtures';

test('green for an affirming result of affirming devices, and for nothing else', () => {
  const tiers: Tier[] = ['affirming', 'warning', 'simulated', 'contraindicated', 'none'];
  const phases: Phase[] = ['starting', 'evidence', 'verified', 'refused', 'unreachable'];
  for (const tier of tiers) {
    for (const phase of phases) {
      const shown = shownFor(status({ tier, phase }), true, NOW);
      const green = tier === 'affirming' && phase === 'verified';
      assert.equal(toneOf(shown) === 'green', green, `${tier}, ${phase}`);
    }
  }
});

test('not green when one device is not affirming', () => {
  const devices = [...status({ tier: 'affirming' }).devices, ...status().devices];
  assert.equal(shownFor(status({ tier: 'affirming', devices }), true, NOW), 'none');
});

test('not green without any device', () => {
  assert.equal(shownFor(status({ tier: 'affirming', devices: [] }), true, NOW), 'none');
});

test('not green once the result has expired', () => {
  const expired = status({ tier: 'affirming', expires: NOW.toISOString() });
  assert.equal(shownFor(expired, true, NOW), 'checking');
});

test('not green when the time of expiry cannot be read', () => {
  assert.equal(shownFor(status({ tier: 'affirming', expires: 'soon' }), true, NOW), 'checking');
});

test('not green when the notebook server does not answer', () => {
  assert.equal(shownFor(status({ tier: 'affirming' }), false, NOW), 'unknown');
});

test('what is last known only is never in a colour of its own', () => {
  const stale: Shown[] = ['checking', 'unreachable', 'unknown'];
  for (const shown of stale) {
    assert.ok(!isCurrent(shown));
    assert.equal(toneOf(shown), 'grey');
  }
  assert.ok(isCurrent('affirming'));
});

test('a tier and a phase of a newer server are not verified', () => {
  assert.equal(shownFor(status({ tier: 'golden' as Tier }), true, NOW), 'none');
  assert.equal(shownFor(status({ tier: 'affirming', phase: 'new' as Phase }), true, NOW), 'none');
});

test('a simulated result is amber and says so', () => {
  const shown = shownFor(status(), true, NOW);
  assert.equal(toneOf(shown), 'amber');
  assert.equal(labelOf(shown, trans), 'Simulated TEE');
  assert.deepEqual(sentencesOf(shown, status(), trans), ['One.', 'Two.']);
});

test('every state has words and at least one sentence', () => {
  const all: Shown[] = [
    'affirming',
    'warning',
    'simulated',
    'contraindicated',
    'none',
    'checking',
    'unreachable',
    'unknown'
  ];
  for (const shown of all) {
    assert.ok(labelOf(shown, trans));
    assert.ok(sentencesOf(shown, null, trans)[0]);
  }
});

test('the sentences of an expired or contradictory proof are not repeated', () => {
  const expired = status({ tier: 'affirming' });
  assert.doesNotMatch(sentencesOf('checking', expired, trans).join(' '), /One/);
  assert.doesNotMatch(sentencesOf('none', expired, trans).join(' '), /One/);
  assert.doesNotMatch(sentencesOf('unknown', expired, trans).join(' '), /One/);
});

test('no state that keeps a dataset shut is without a reason', () => {
  for (const state of ['not_granted', 'expired', 'withdrawn', 'refused', 'new'] as Condition[]) {
    assert.ok(datasetReason(state, trans), state);
  }
  assert.ok(datasetReason('absent', trans));
});

test('a dataset whose files are elsewhere is shown as absent', () => {
  assert.equal(datasetShown(dataset({ here: false })), 'absent');
  assert.equal(datasetShown(dataset()), 'locked');
});
