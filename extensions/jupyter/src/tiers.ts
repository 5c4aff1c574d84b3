// SPDX-License-Identifier: BSD-3-Clause
/**
 * What is shown for a status: the only place that decides on green.
 *
 * - Green (`affirming`) needs a verified, unexpired result whose overall tier is affirming and whose every device is.
 * - A tier that this version does not know is shown as "not verified".
 * - An old result is never shown as if it still held.
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { Condition, IDataset, IRule, IStatus, Outcome, Tier } from './api';

/** A tier, or why there is none to show now: `unknown` means that the notebook server itself gives no answer. */
export type Shown = Tier | 'checking' | 'unreachable' | 'unknown';

/** Colour family; the words and the icon always say the same. */
export type Tone = 'green' | 'amber' | 'red' | 'blue' | 'grey';

/** State of a dataset as its card shows it: `absent` means that its files are not on this machine. */
export type DatasetShown = Condition | 'absent';

const TIERS: readonly Tier[] = ['affirming', 'warning', 'simulated', 'contraindicated', 'none'];

/** Decide what to show for a status; `null` where none has come yet. */
export function shownFor(status: IStatus | null, reachable: boolean, now: Date): Shown {
  if (!reachable) {
    return 'unknown';
  }
  if (status === null) {
    return 'checking';
  }
  switch (status.phase) {
    case 'verified':
      return verifiedTier(status, now);
    case 'refused':
      return status.tier === 'contraindicated' ? 'contraindicated' : 'none';
    case 'unreachable':
      return 'unreachable';
    case 'starting':
    case 'evidence':
      return 'checking';
    default:
      return 'none';
  }
}

function verifiedTier(status: IStatus, now: Date): Shown {
  if (status.expires !== null && !(new Date(status.expires).getTime() > now.getTime())) {
    return 'checking';
  }
  const tier = knownTier(status.tier);
  if (tier === 'affirming') {
    const proven = status.devices.length > 0 && status.devices.every(d => d.tier === 'affirming');
    return proven ? 'affirming' : 'none';
  }
  return tier;
}

/** The tier itself, or `none` for one that this version does not know. */
export function knownTier(tier: string): Tier {
  return TIERS.find(known => known === tier) ?? 'none';
}

/** Whether a result holds now. Where it does not, earlier tiers of devices are the last known ones only. */
export function isCurrent(shown: Shown): boolean {
  return shown !== 'checking' && shown !== 'unreachable' && shown !== 'unknown';
}

export function toneOf(shown: Shown): Tone {
  switch (shown) {
    case 'affirming':
      return 'green';
    case 'simulated':
    case 'warning':
      return 'amber';
    case 'contraindicated':
    case 'none':
      return 'red';
    default:
      return 'grey';
  }
}

export function labelOf(shown: Shown, trans: TranslationBundle): string {
  switch (shown) {
    case 'affirming':
      return trans.__('Attested');
    case 'warning':
      return trans.__('Attested, with warnings');
    case 'simulated':
      return trans.__('Simulated TEE');
    case 'contraindicated':
    case 'none':
      return trans.__('Not verified');
    case 'checking':
      return trans.__('Checking…');
    case 'unreachable':
      return trans.__('Broker unreachable');
    case 'unknown':
      return trans.__('Status unknown');
  }
}

/** Sentences to show where the server sent none that fit what is shown. */
export function sentencesOf(
  shown: Shown,
  status: IStatus | null,
  trans: TranslationBundle
): string[] {
  const own = status?.sentences.filter(sentence => sentence !== '') ?? [];
  if (shown === 'checking' && status?.phase === 'verified') {
    return [
      trans.__('The last proof has expired.'),
      trans.__('A new one is being made; until then nothing is known about this server.')
    ];
  }
  if (shown === 'none' && status?.phase === 'verified' && status.tier === 'affirming') {
    return [
      trans.__('The result contradicts itself: not every device of this server was proven.'),
      trans.__('Treat this server as not verified.')
    ];
  }
  if (own.length > 0 && shown !== 'unknown') {
    return own;
  }
  switch (shown) {
    case 'checking':
      return [trans.__('This server is gathering evidence about itself.')];
    case 'unreachable':
      return [
        trans.__('The broker that checks this server cannot be reached.'),
        trans.__('What was proven earlier cannot be confirmed now, and no dataset can be unlocked.')
      ];
    case 'affirming':
      return [trans.__('Every device of this server has proven itself to the broker.')];
    case 'warning':
      return [trans.__('This server has proven itself, but some checks need attention.')];
    case 'simulated':
      return [
        trans.__('A simulated processor stands in for the secure one.'),
        trans.__('It shows how things work; it protects nothing from the operator of this machine.')
      ];
    default:
      return [trans.__('This server could not prove itself. Do not trust it with sensitive data.')];
  }
}

export function datasetShown(dataset: IDataset): DatasetShown {
  return dataset.here === false ? 'absent' : dataset.state;
}

export function datasetTone(shown: DatasetShown): Tone {
  switch (shown) {
    case 'unlocked':
      return 'blue';
    case 'refused':
      return 'red';
    case 'withdrawn':
    case 'expired':
      return 'amber';
    default:
      return 'grey';
  }
}

export function datasetLabel(shown: DatasetShown, trans: TranslationBundle): string {
  switch (shown) {
    case 'locked':
      return trans.__('Locked');
    case 'unlocked':
      return trans.__('Unlocked');
    case 'not_granted':
      return trans.__('Not granted');
    case 'expired':
      return trans.__('Grant expired');
    case 'withdrawn':
      return trans.__('Grant withdrawn');
    case 'absent':
      return trans.__('Not on this machine');
    default:
      return trans.__('Refused');
  }
}

/** What is said where the broker gave no reason of its own: a refusal is never without one. */
export function datasetReason(shown: DatasetShown, trans: TranslationBundle): string {
  switch (shown) {
    case 'not_granted':
      return trans.__('The owner has not granted you access to this dataset.');
    case 'expired':
      return trans.__('Your grant for this dataset has ended.');
    case 'withdrawn':
      return trans.__('The owner has withdrawn your access to this dataset.');
    case 'absent':
      return trans.__('The sealed files of this dataset are not stored on this machine.');
    case 'locked':
    case 'unlocked':
      return '';
    default:
      return trans.__('The broker refused this dataset and gave no reason.');
  }
}

export function outcomeLabel(outcome: Outcome, trans: TranslationBundle): string {
  switch (outcome) {
    case 'passed':
      return trans.__('Passed');
    case 'failed':
      return trans.__('Failed');
    default:
      return trans.__('Not checked');
  }
}

/** Outcome of a rule, in words. */
export function ruleLabel(outcome: IRule['outcome'], trans: TranslationBundle): string {
  switch (outcome) {
    case 'passed':
      return trans.__('Passed');
    case 'failed':
      return trans.__('Failed');
    default:
      return trans.__('Not looked at');
  }
}

/** Whether a person who has no access to this dataset can ask for it. */
export function canAsk(shown: DatasetShown): boolean {
  return (
    shown === 'not_granted' || shown === 'expired' || shown === 'withdrawn' || shown === 'refused'
  );
}
