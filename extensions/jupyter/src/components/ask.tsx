// SPDX-License-Identifier: BSD-3-Clause
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { IDataset, IPreviewItem, ITerm } from '../api';
import { RequestError } from '../api';
import { countCharacters, endOfDay, inputDay, MAX_REASON } from '../format';
import type { ISealroomModel } from '../tokens';
import { Failure, Items } from './parts';
import { ITaskState, TaskBody, TaskDialog } from './taskdialog';

/** Ask a dataset's owner for access, and say beforehand what they will see. */
export async function showAskDialog(
  model: ISealroomModel,
  id: string,
  trans: TranslationBundle
): Promise<void> {
  const dataset = model.dataset(id);
  if (dataset === undefined) {
    return;
  }
  const dialog = new TaskDialog({
    title: trans.__('Ask for access to “%1”', dataset.title || id),
    body: new AskBody(model, dataset, trans),
    cancel: trans.__('Cancel'),
    accept: trans.__('Send request'),
    testid: 'ask',
    focus: 'select'
  });
  await dialog.launch().catch(() => undefined);
}

class AskBody extends TaskBody {
  constructor(
    private readonly _model: ISealroomModel,
    private readonly _dataset: IDataset,
    private readonly _trans: TranslationBundle
  ) {
    super();
    const named = _dataset.asks ?? [];
    // One purpose leaves nothing to choose; with more, the choice is the person's own statement.
    this._purpose = named.length === 1 ? named[0].code : '';
    void this._loadPreview();
  }

  canRun(): boolean {
    return this._purpose !== '' && this._isReason() && this._isDay();
  }

  protected async task(): Promise<boolean> {
    await this._model.askForAccess(this._dataset.id, {
      purpose: this._purpose,
      reason: this._reason.trim(),
      until: endOfDay(this._day)
    });
    return true;
  }

  protected view(state: ITaskState): JSX.Element {
    const trans = this._trans;
    return (
      <>
        <p>
          {trans.__(
            'Your request goes to %1, who decides. You will see the answer on the dataset’s card.',
            this._dataset.owner || trans.__('the data owner')
          )}
        </p>
        <fieldset className="sealroom-Form" disabled={state.running}>
          {this._purposeField()}
          {this._reasonField()}
          {this._dayField()}
        </fieldset>
        <h3>{trans.__('What the owner will see')}</h3>
        {this._previewView()}
        <div role="status" className="sealroom-Dialog-status" data-testid="ask-status">
          {state.running && (
            <p className="sealroom-Progress">{trans.__('Sending the request to the broker…')}</p>
          )}
          {state.error && <Failure error={state.error} testid="ask-failure" />}
        </div>
      </>
    );
  }

  private _purposeField(): JSX.Element {
    const trans = this._trans;
    const named = this._dataset.asks ?? [];
    const codes = new Set(named.map(term => term.code));
    const others = this._model.purposes.filter(term => !codes.has(term.code));
    return (
      <div className="sealroom-Field">
        <label htmlFor="sealroom-ask-purpose">{trans.__('What will you use the data for?')}</label>
        <div className="jp-select-wrapper">
          <select
            id="sealroom-ask-purpose"
            className="jp-mod-styled"
            data-testid="ask-purpose"
            required
            value={this._purpose}
            onChange={event => this._set('_purpose', event.target.value)}
          >
            <option value="">{trans.__('Choose a purpose…')}</option>
            <optgroup label={trans.__('The dataset’s terms name')}>{named.map(option)}</optgroup>
            {others.length > 0 && (
              <optgroup label={trans.__('Others')}>{others.map(option)}</optgroup>
            )}
          </select>
        </div>
      </div>
    );
  }

  private _reasonField(): JSX.Element {
    const trans = this._trans;
    const length = countCharacters(this._reason.trim());
    const tooLong = length > MAX_REASON;
    return (
      <div className="sealroom-Field">
        <label htmlFor="sealroom-ask-reason">{trans.__('Why do you need it?')}</label>
        <textarea
          id="sealroom-ask-reason"
          className="sealroom-Reason"
          data-testid="ask-reason"
          required
          rows={5}
          aria-invalid={tooLong}
          aria-describedby="sealroom-ask-count"
          value={this._reason}
          onChange={event => this._set('_reason', event.target.value)}
        />
        <p
          id="sealroom-ask-count"
          data-testid="ask-count"
          className={tooLong ? 'sealroom-Invalid' : 'sealroom-muted'}
        >
          {tooLong
            ? trans.__(
                '%1 of %2 characters: too long by %3',
                length,
                MAX_REASON,
                length - MAX_REASON
              )
            : trans.__('%1 of %2 characters', length, MAX_REASON)}
        </p>
      </div>
    );
  }

  private _dayField(): JSX.Element {
    const trans = this._trans;
    const valid = this._isDay();
    return (
      <div className="sealroom-Field">
        <label htmlFor="sealroom-ask-until">
          {trans.__('Until when? (last day; may be left out)')}
        </label>
        <input
          id="sealroom-ask-until"
          className="jp-mod-styled"
          data-testid="ask-until"
          type="date"
          min={inputDay(this._model.now())}
          aria-invalid={!valid}
          aria-describedby="sealroom-ask-until-help"
          value={this._day}
          onChange={event => this._set('_day', event.target.value)}
        />
        <p
          id="sealroom-ask-until-help"
          className={valid ? 'sealroom-muted' : 'sealroom-Invalid'}
          aria-live="polite"
        >
          {valid
            ? trans.__('The owner decides how long; this is your wish.')
            : trans.__('This day is over.')}
        </p>
      </div>
    );
  }

  private _previewView(): JSX.Element {
    const trans = this._trans;
    if (this._previewError !== null) {
      return <Failure error={this._previewError} testid="ask-preview-failure" />;
    }
    if (this._preview === null) {
      return <p className="sealroom-muted">{trans.__('Asking this server…')}</p>;
    }
    return (
      <Items
        items={this._preview}
        label={trans.__('What the owner will see')}
        testid="ask-preview"
      />
    );
  }

  private _isReason(): boolean {
    const length = countCharacters(this._reason.trim());
    return length > 0 && length <= MAX_REASON;
  }

  private _isDay(): boolean {
    if (this._day === '') {
      return true;
    }
    const end = endOfDay(this._day);
    return end !== null && new Date(end).getTime() > this._model.now().getTime();
  }

  private _set(field: '_purpose' | '_reason' | '_day', value: string): void {
    this[field] = value;
    this.touched();
  }

  private async _loadPreview(): Promise<void> {
    try {
      this._preview = await this._model.askPreview(this._dataset.id);
    } catch (error) {
      this._previewError =
        error instanceof RequestError ? error : new RequestError(String(error), 0);
    }
    this.touched();
  }

  private _purpose: string;
  private _reason = '';
  private _day = '';
  private _preview: readonly IPreviewItem[] | null = null;
  private _previewError: RequestError | null = null;
}

function option(term: ITerm): JSX.Element {
  return (
    <option key={term.code} value={term.code}>
      {`${term.label} (${term.code})`}
    </option>
  );
}
