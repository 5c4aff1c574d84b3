// SPDX-License-Identifier: BSD-3-Clause
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { IDataset, IPreviewItem, ITerm } from '../api';
import { RequestError } from '../api';
import type { ISealroomModel } from '../tokens';
import { Failure, Items } from './parts';
import { ITaskState, TaskBody, TaskDialog } from './taskdialog';

/** Ask for a purpose, show what will be sent, and unlock. */
export async function showUnlockDialog(
  model: ISealroomModel,
  id: string,
  trans: TranslationBundle
): Promise<void> {
  const dataset = model.dataset(id);
  if (dataset === undefined) {
    return;
  }
  const dialog = new TaskDialog({
    title: trans.__('Unlock “%1”', dataset.title || id),
    body: new UnlockBody(model, dataset, trans),
    cancel: trans.__('Cancel'),
    accept: trans.__('Unlock'),
    testid: 'unlock',
    focus: 'input'
  });
  await dialog.launch().catch(() => undefined);
}

class UnlockBody extends TaskBody {
  constructor(
    private readonly _model: ISealroomModel,
    private readonly _dataset: IDataset,
    private readonly _trans: TranslationBundle
  ) {
    super();
    const { purposes } = _dataset;
    // One purpose leaves nothing to choose; with more, the choice is the person's own statement.
    this._purpose = purposes.length === 1 ? purposes[0].code : null;
    void this._loadPreview();
  }

  canRun(): boolean {
    return this._purpose !== null;
  }

  protected async task(): Promise<boolean> {
    await this._model.unlock(this._dataset.id, this._purpose ?? '');
    return true;
  }

  protected view(state: ITaskState): JSX.Element {
    const trans = this._trans;
    const { owner, purposes } = this._dataset;
    return (
      <>
        <p>
          {trans.__(
            'Keys are released to this server only. The request, your name and the purpose go into the audit log of the data owner, %1.',
            owner
          )}
        </p>
        <fieldset className="sealroom-Purposes" disabled={state.running}>
          <legend>{trans.__('What will you use it for?')}</legend>
          {purposes.map(purpose => this._radio(purpose))}
          {purposes.length === 0 && <p>{trans.__('Your grant names no purpose.')}</p>}
        </fieldset>
        <h3>{trans.__('What will be sent')}</h3>
        {this._previewView()}
        <div role="status" className="sealroom-Dialog-status" data-testid="unlock-status">
          {state.running && (
            <p className="sealroom-Progress">
              {trans.__('Proving this server to the broker and asking for the keys…')}
            </p>
          )}
          {state.error && <Failure error={state.error} testid="unlock-failure" />}
        </div>
      </>
    );
  }

  private _radio(purpose: ITerm): JSX.Element {
    return (
      <label key={purpose.code}>
        <input
          type="radio"
          name="sealroom-purpose"
          value={purpose.code}
          checked={this._purpose === purpose.code}
          onChange={() => {
            this._purpose = purpose.code;
            this.touched();
          }}
        />
        <span>{purpose.label}</span>
        <span className="sealroom-muted">{purpose.code}</span>
      </label>
    );
  }

  private _previewView(): JSX.Element {
    const trans = this._trans;
    if (this._previewError !== null) {
      return <Failure error={this._previewError} testid="preview-failure" />;
    }
    if (this._preview === null) {
      return <p className="sealroom-muted">{trans.__('Asking this server…')}</p>;
    }
    return (
      <Items items={this._preview} label={trans.__('What will be sent')} testid="request-preview" />
    );
  }

  private async _loadPreview(): Promise<void> {
    try {
      this._preview = await this._model.preview(this._dataset.id);
    } catch (error) {
      this._previewError =
        error instanceof RequestError ? error : new RequestError(String(error), 0);
    }
    this.touched();
  }

  private _purpose: string | null;
  private _preview: readonly IPreviewItem[] | null = null;
  private _previewError: RequestError | null = null;
}
