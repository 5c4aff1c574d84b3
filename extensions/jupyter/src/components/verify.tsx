// SPDX-License-Identifier: BSD-3-Clause
import type { TranslationBundle } from '@jupyterlab/translation';
import { refreshIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import { evidenceName, isNonce, NONCE_PATTERN, randomNonce, verifyCommand } from '../format';
import type { ISealroomModel } from '../tokens';
import { CopyBlock, Failure, Icon, saveFile } from './parts';
import { ITaskState, TaskBody, TaskDialog } from './taskdialog';

/** Save evidence over the person's own nonce, and say how to check it somewhere else. */
export async function showVerifyDialog(
  model: ISealroomModel,
  trans: TranslationBundle
): Promise<void> {
  const dialog = new TaskDialog({
    title: trans.__('Verify yourself'),
    body: new VerifyBody(model, trans),
    cancel: trans.__('Close'),
    accept: trans.__('Save evidence'),
    testid: 'verify',
    focus: 'input'
  });
  await dialog.launch().catch(() => undefined);
}

class VerifyBody extends TaskBody {
  constructor(
    private readonly _model: ISealroomModel,
    private readonly _trans: TranslationBundle
  ) {
    super();
  }

  canRun(): boolean {
    return isNonce(this._nonce);
  }

  protected async task(): Promise<boolean> {
    const nonce = this._nonce;
    const text = await this._model.evidence(nonce);
    const file = evidenceName(nonce, this._model.now());
    saveFile(file, text);
    this._saved = { file, nonce };
    return false;
  }

  protected view(state: ITaskState): JSX.Element {
    const trans = this._trans;
    const valid = isNonce(this._nonce);
    return (
      <>
        <p>
          {trans.__(
            'You need not believe this panel. Have this server prove itself over a number that only you know, and check the proof on a machine that you trust.'
          )}
        </p>
        <label htmlFor="sealroom-nonce">
          {trans.__('Your number (nonce), 16 to 64 bytes in hex')}
        </label>
        <div className="sealroom-Nonce">
          <input
            id="sealroom-nonce"
            type="text"
            className="jp-mod-styled"
            data-testid="nonce"
            spellCheck={false}
            autoComplete="off"
            required
            pattern={NONCE_PATTERN}
            aria-invalid={!valid}
            aria-describedby="sealroom-nonce-help"
            disabled={state.running}
            value={this._nonce}
            onChange={event => this._setNonce(event.target.value.trim())}
          />
          <button
            type="button"
            className="sealroom-IconButton"
            data-testid="nonce-new"
            disabled={state.running}
            title={trans.__('Another random number')}
            aria-label={trans.__('Another random number')}
            onClick={() => this._setNonce(randomNonce())}
          >
            <Icon icon={refreshIcon} />
          </button>
        </div>
        <p
          id="sealroom-nonce-help"
          className={valid ? 'sealroom-muted' : 'sealroom-Invalid'}
          aria-live="polite"
        >
          {valid
            ? trans.__('Fresh from your browser; change it to one of your own if you like.')
            : trans.__(
                'This is not 16 to 64 bytes in hex: use an even number of digits 0-9 and a-f.'
              )}
        </p>
        <div role="status" className="sealroom-Dialog-status" data-testid="verify-status">
          {state.running && (
            <p className="sealroom-Progress">{trans.__('Gathering evidence over your number…')}</p>
          )}
          {state.error && <Failure error={state.error} testid="verify-failure" />}
          {this._saved && !state.running && !state.error && this._savedView(this._saved)}
        </div>
      </>
    );
  }

  private _savedView(saved: ISaved): JSX.Element {
    const trans = this._trans;
    const { status } = this._model;
    const simulated = status?.tier === 'simulated' || Boolean(status?.root);
    const root = simulated ? baseName(status?.root || 'ark.pem') : null;
    return (
      <>
        <p>
          {trans.__('Saved')} <strong data-testid="evidence-file">{saved.file}</strong>.{' '}
          {trans.__('Check it where you have the command-line tool:')}
        </p>
        <CopyBlock
          text={verifyCommand(saved.file, saved.nonce, root)}
          label={trans.__('Command that checks the evidence')}
          testid="verify-command"
          trans={trans}
        />
        <p className="sealroom-muted">
          {root === null
            ? trans.__('It checks the signature chain up to the root of the processor’s maker.')
            : trans.__(
                '%1 is the development root of this installation. Get it from whoever runs it, not from this server. A simulated result shows how checking works; it proves no hardware.',
                root
              )}
        </p>
      </>
    );
  }

  private _setNonce(nonce: string): void {
    this._nonce = nonce;
    this.touched();
  }

  private _nonce = randomNonce();
  private _saved: ISaved | null = null;
}

interface ISaved {
  file: string;
  nonce: string;
}

function baseName(path: string): string {
  return path.split('/').pop() || path;
}
