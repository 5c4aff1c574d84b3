// SPDX-License-Identifier: BSD-3-Clause
/** Finds the changes that a person must hear about even with the panel closed. Pure. */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IDataset, IRequest, RequestState } from './api';
import { datasetReason, sentencesOf } from './tiers';
import type { Shown } from './tiers';
import type { ISealroomModel } from './tokens';

/** What was last seen of a model. */
export interface ISeen {
  shown: Shown;
  unlocked: ReadonlySet<string>;
  /** When access that this server had has ended, by dataset. */
  ended: ReadonlyMap<string, string>;
  /** State of each request; `null` before the first list. */
  requests: ReadonlyMap<string, RequestState> | null;
}

export interface IAlert {
  kind: 'error' | 'warning' | 'success';
  message: string;
}

export function see(model: ISealroomModel): ISeen {
  const unlocked = (model.datasets ?? []).filter(dataset => dataset.state === 'unlocked');
  const ended = (model.datasets ?? []).map(({ id, ended }) => [id, ended?.at ?? ''] as const);
  const requests = model.requests?.map(({ id, state }) => [id, state] as const) ?? null;
  return {
    shown: model.shown,
    unlocked: new Set(unlocked.map(dataset => dataset.id)),
    ended: new Map(ended),
    requests: requests && new Map(requests)
  };
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
    if (before.unlocked.has(dataset.id) && hasEnded(dataset, before)) {
      const { ended } = dataset;
      const why =
        ended?.sentence || dataset.reasons[0]?.sentence || datasetReason(dataset.state, trans);
      const title = dataset.title || dataset.id;
      const message = trans.__('Access to “%1” has ended. %2', title, why);
      alerts.push({ kind: 'warning', message: [message, ended?.advice ?? ''].join(' ').trim() });
    }
  }
  return alerts;
}

/** Whether this server could not prove itself. */
export function isRefused(shown: Shown): boolean {
  return shown === 'contraindicated' || shown === 'none';
}

/** Answers of owners between two looks. */
export function answers(before: ISeen, model: ISealroomModel, trans: TranslationBundle): IAlert[] {
  if (before.requests === null) {
    return [];
  }
  const alerts: IAlert[] = [];
  for (const request of model.requests ?? []) {
    if (before.requests.get(request.id) === 'open' && request.state !== 'open') {
      alerts.push(...answer(request, trans));
    }
  }
  return alerts;
}

function answer(request: IRequest, trans: TranslationBundle): IAlert[] {
  const title = request.title || request.dataset;
  const words = request.answer && trans.__('The owner says: %1', request.answer);
  switch (request.state) {
    case 'granted':
      return [
        {
          kind: 'success',
          message: `${trans.__('Access to “%1” granted.', title)} ${words}`.trim()
        }
      ];
    case 'refused':
      return [
        {
          kind: 'warning',
          message: `${trans.__('Access to “%1” refused.', title)} ${words}`.trim()
        }
      ];
    default:
      return [];
  }
}

/** A grant that was narrowed leaves the dataset locked, with a new word on why access has ended. */
function hasEnded(dataset: IDataset, before: ISeen): boolean {
  const ended = dataset.ended?.at ?? '';
  const isNew = ended !== '' && before.ended.get(dataset.id) !== ended;
  return dataset.state === 'locked' ? isNew : dataset.state !== 'unlocked';
}
