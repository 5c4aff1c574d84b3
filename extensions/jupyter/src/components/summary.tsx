// SPDX-License-Identifier: BSD-3-Clause
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import { iconFor } from '../icons';
import { labelOf, sentencesOf, toneOf } from '../tiers';
import type { ISealroomModel } from '../tokens';
import { Icon } from './parts';

/** Top of the panel: the state in large, and what it means in two sentences. */
export function Summary(props: { model: ISealroomModel; trans: TranslationBundle }): JSX.Element {
  const { model, trans } = props;
  const { shown, status, statusError } = model;
  const sentences =
    statusError !== null
      ? [statusError.message, statusError.advice || trans.__('Nothing is known about it now.')]
      : sentencesOf(shown, status, trans);
  const error = statusError === null && shown !== 'affirming' ? status?.error : null;
  const extra = error && !sentences.includes(error.message) ? error : null;
  return (
    <section
      className="sealroom-Summary"
      aria-label={trans.__('What this means')}
      data-testid="sealroom-summary"
      data-tier={shown}
      data-tone={toneOf(shown)}
    >
      <div aria-live="polite">
        <h2 className="sealroom-Summary-title">
          <Icon icon={iconFor(shown)} />
          {labelOf(shown, trans)}
        </h2>
        <p className="sealroom-Summary-text">{sentences.join(' ')}</p>
        {extra && (
          <p className="sealroom-Summary-error" data-testid="sealroom-error">
            {extra.message} {extra.advice}
          </p>
        )}
      </div>
    </section>
  );
}
