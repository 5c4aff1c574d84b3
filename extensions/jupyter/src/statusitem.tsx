// SPDX-License-Identifier: BSD-3-Clause
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';
import { Icon } from './components/parts';
import { iconFor } from './icons';
import { labelOf, sentencesOf, toneOf } from './tiers';
import type { ISealroomModel } from './tokens';

/** The item in the status bar: the state of this server in two words, and the way into the panel. */
export class StatusItem extends ReactWidget {
  constructor(
    private readonly _model: ISealroomModel,
    private readonly _trans: TranslationBundle,
    private readonly _open: () => void
  ) {
    super();
    this.addClass('sealroom-StatusItem');
  }

  protected override render(): JSX.Element {
    return <UseSignal signal={this._model.changed}>{() => this._button()}</UseSignal>;
  }

  private _button(): JSX.Element {
    const trans = this._trans;
    const { shown, status, statusError } = this._model;
    const label = labelOf(shown, trans);
    const sentence = statusError?.message ?? sentencesOf(shown, status, trans)[0];
    const full = trans.__(
      'Sealroom: %1. %2 Open the Sealroom panel.',
      label.replace(/…$/, ''),
      sentence
    );
    return (
      <button
        type="button"
        className="sealroom-Status"
        data-testid="sealroom-status"
        data-tier={shown}
        data-tone={toneOf(shown)}
        aria-label={full}
        title={sentence}
        onClick={this._open}
      >
        <Icon icon={iconFor(shown)} />
        {label}
      </button>
    );
  }
}
