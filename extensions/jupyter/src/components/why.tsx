// SPDX-License-Identifier: BSD-3-Clause
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { IDataset, IExplanation, IRule, ITerm } from '../api';
import { outcomeIcon } from '../icons';
import { ruleLabel } from '../tiers';
import type { ISealroomModel } from '../tokens';
import { Contact, Failure, Icon } from './parts';
import { ITaskState, TaskBody, TaskDialog } from './taskdialog';

/** Show what the broker would decide on a dataset now, rule by rule; nothing is released. */
export async function showWhyDialog(
  model: ISealroomModel,
  id: string,
  trans: TranslationBundle
): Promise<void> {
  const dataset = model.dataset(id);
  if (dataset === undefined) {
    return;
  }
  const body = new WhyBody(model, dataset, trans);
  const dialog = new TaskDialog({
    title: trans.__('Why “%1” is closed', dataset.title || id),
    body,
    cancel: trans.__('Close'),
    accept: trans.__('Check again'),
    testid: 'why',
    focus: 'select'
  });
  void body.run();
  await dialog.launch().catch(() => undefined);
}

class WhyBody extends TaskBody {
  constructor(
    private readonly _model: ISealroomModel,
    private readonly _dataset: IDataset,
    private readonly _trans: TranslationBundle
  ) {
    super();
  }

  canRun(): boolean {
    return true;
  }

  protected async task(): Promise<boolean> {
    this._found = await this._model.explain(this._dataset.id, this._purpose);
    return false;
  }

  protected view(state: ITaskState): JSX.Element {
    const trans = this._trans;
    return (
      <>
        <p>
          {trans.__(
            'This is what the broker would decide for you in this server now. Nothing is released by looking.'
          )}
        </p>
        {this._purposeField(state)}
        <div role="status" className="sealroom-Dialog-status" data-testid="why-status">
          {state.running && <p className="sealroom-Progress">{trans.__('Asking the broker…')}</p>}
          {state.error && <Failure error={state.error} testid="why-failure" />}
        </div>
        {this._found && !state.error && this._rules(this._found)}
      </>
    );
  }

  private _purposeField(state: ITaskState): JSX.Element {
    const trans = this._trans;
    const terms = new Map<string, ITerm>();
    for (const term of [...this._dataset.purposes, ...(this._dataset.asks ?? [])]) {
      terms.set(term.code, term);
    }
    return (
      <div className="sealroom-Field">
        <label htmlFor="sealroom-why-purpose">{trans.__('For which purpose?')}</label>
        <div className="jp-select-wrapper">
          <select
            id="sealroom-why-purpose"
            className="jp-mod-styled"
            data-testid="why-purpose"
            value={this._purpose}
            disabled={state.running}
            onChange={event => {
              this._purpose = event.target.value;
              void this.run();
            }}
          >
            <option value="">{trans.__('Any')}</option>
            {Array.from(terms.values(), term => (
              <option key={term.code} value={term.code}>
                {`${term.label} (${term.code})`}
              </option>
            ))}
          </select>
        </div>
      </div>
    );
  }

  private _rules(found: IExplanation): JSX.Element {
    const trans = this._trans;
    const failed = found.rules.filter(rule => rule.outcome === 'failed');
    const others = found.rules.filter(rule => rule.outcome !== 'failed');
    return (
      <div data-testid="why-result" data-allowed={found.allowed}>
        <p className="sealroom-Verdict" data-tone={found.allowed ? 'green' : 'red'}>
          {found.allowed
            ? trans.__('The broker would release it.')
            : trans._n(
                'The broker would not release it: %1 rule failed.',
                'The broker would not release it: %1 rules failed.',
                failed.length,
                failed.length
              )}
        </p>
        <ul className="sealroom-Rules" aria-label={trans.__('Rules of the decision')} tabIndex={0}>
          {[...failed, ...others].map(rule => (
            <Rule key={rule.code} rule={rule} trans={trans} />
          ))}
        </ul>
        {!found.allowed && found.ask && (
          <p>
            {trans.__('Whom to ask:')} <Contact text={found.ask} />
          </p>
        )}
      </div>
    );
  }

  private _purpose = '';
  private _found: IExplanation | null = null;
}

function Rule(props: { rule: IRule; trans: TranslationBundle }): JSX.Element {
  const { rule, trans } = props;
  const outcome = rule.outcome === 'not_reached' ? 'not_checked' : rule.outcome;
  return (
    <li data-testid="why-rule" data-code={rule.code} data-outcome={rule.outcome}>
      <span className="sealroom-Rule-outcome">
        <Icon icon={outcomeIcon(outcome)} />
        {ruleLabel(rule.outcome, trans)}
      </span>
      <span className="sealroom-Rule-words">
        {rule.sentence} <code className="sealroom-Rule-code">{rule.code}</code>
      </span>
    </li>
  );
}
