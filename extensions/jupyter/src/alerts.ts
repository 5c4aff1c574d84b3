// SPDX-License-Identifier: BSD-3-Clause
/** Finds the changes that a person must hear about even with the panel closed. Pure. */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IDataset } from './api';
import { datasetReason, sentencesOf } from './tiers';
import type { Shown } from './tiers';
import type { ISealroomModel } from './tokens';

/** What was last seen of a model. */
export interface ISeen {
  shown: Shown;
  unlocked: ReadonlySet<string>;
}

export interface IAlert {
  kind: 'error' | 'warning';
  message: string;
}

export function see(model: ISealroomModel): ISeen {
  const unlocked = (model.datasets ?? []).filter(dataset => dataset.state === 'unlocked');
  return { shown: model.shown, unlocked: new Set(unlocked.map(dataset => dataset.id)) };
}

/** Losses between two looks: of the proof, and of access to a dataset that nobody here locked. */
export function losses(before: ISeen, model: ISealroomModel, trans: TranslationBundle): IAlert[] {
  const alerts: IAlert[] = [];
  const { shown } = model;
  if (isRefused(shown) && !isRefused(before.shown)) {
    const sentence = sentencesOf(shown, model.status, trans)[0];
    alerts.push({ kind: 'error', message: trans.__('This server is not verified. %1', sentence) });
  }
  for (const dataset of model.datasets ?? []) {
    if (before.unlocked.has(dataset.id) && hasEnded(dataset)) {
      const why = dataset.reasons[0]?.sentence || datasetReason(dataset.state, trans);
      const title = dataset.title || dataset.id;
      alerts.push({
        kind: 'warning',
        message: trans.__('Access to “%1” has ended. %2', title, why)
      });
    }
  }
  return alerts;
}

/** Whether this server could not prove itself. */
export function isRefused(shown: Shown): boolean {
  return shown === 'contraindicated' || shown === 'none';
}

function hasEnded(dataset: IDataset): boolean {
  return dataset.state !== 'unlocked' && dataset.state !== 'locked';
}
