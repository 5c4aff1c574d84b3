// SPDX-License-Identifier: BSD-3-Clause
import { Button } from '@jupyter/react-components';
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { IDataset, IReason } from '../api';
import { formatSize, formatTime, snippet } from '../format';
import { datasetIcon } from '../icons';
import { canAsk, datasetLabel, datasetReason, datasetShown, datasetTone } from '../tiers';
import type { DatasetShown } from '../tiers';
import type { ISealroomModel } from '../tokens';
import { Chip, Contact, CopyBlock, Failure, pageLanguage, Reasons } from './parts';
import { RequestLine } from './requestline';

export interface IDatasetsProps {
  model: ISealroomModel;
  trans: TranslationBundle;
  onUnlock: (id: string) => void;
  onAsk: (id: string) => void;
  onWhy: (id: string) => void;
}

/** All datasets on offer, one card each. */
export function Datasets(props: IDatasetsProps): JSX.Element {
  const { model, trans } = props;
  const { datasets, datasetsError } = model;
  return (
    <div className="sealroom-Section">
      <div aria-live="polite">
        {datasetsError && (
          <>
            <Failure error={datasetsError} testid="datasets-error" />
            {datasets !== null && datasets.length > 0 && (
              <p className="sealroom-muted">
                {trans.__('What is shown below may be out of date.')}
              </p>
            )}
          </>
        )}
      </div>
      {datasets === null && datasetsError === null && (
        <p className="sealroom-muted">{trans.__('Asking the broker what is on offer…')}</p>
      )}
      {datasets !== null && datasets.length === 0 && (
        <p className="sealroom-muted">{trans.__('The broker offers no datasets.')}</p>
      )}
      {datasets?.map(dataset => (
        <DatasetCard key={dataset.id} {...props} dataset={dataset} />
      ))}
    </div>
  );
}

function DatasetCard(props: IDatasetsProps & { dataset: IDataset }): JSX.Element {
  const { dataset, model, trans } = props;
  const shown = datasetShown(dataset);
  const headline = `sealroom-dataset-${dataset.id}`;
  const failure = model.failure(dataset.id);
  return (
    <article
      className="sealroom-Card"
      aria-labelledby={headline}
      aria-busy={model.isBusy(dataset.id)}
      data-testid="sealroom-dataset"
      data-id={dataset.id}
      data-state={shown}
      data-tone={datasetTone(shown)}
    >
      <header className="sealroom-Card-header">
        <h3 id={headline}>{dataset.title || dataset.id}</h3>
        <Chip
          tone={datasetTone(shown)}
          icon={datasetIcon(shown)}
          label={datasetLabel(shown, trans)}
          testid="dataset-state"
        />
      </header>
      <p className="sealroom-Card-meta">{meta(dataset, trans)}</p>
      {dataset.description && <p className="sealroom-Card-text">{dataset.description}</p>}
      {dataset.terms.length > 0 && (
        <ul className="sealroom-Terms" aria-label={trans.__('Terms of use')}>
          {dataset.terms.map(term => (
            <li key={term.code} title={term.code}>
              {term.label}
            </li>
          ))}
        </ul>
      )}
      <div aria-live="polite">
        {(failure === null || failure.reasons.length === 0) && (
          <Standing dataset={dataset} shown={shown} trans={trans} />
        )}
        {failure && <Failure error={failure} />}
        <RequestLine
          request={model.request(dataset.id)}
          shown={shown}
          until={dataset.until}
          trans={trans}
        />
      </div>
      {shown === 'unlocked' && (
        <CopyBlock
          text={snippet(dataset.id, dataset.names)}
          label={trans.__('Python that reads this dataset')}
          testid="snippet"
          trans={trans}
        />
      )}
      <Origin dataset={dataset} trans={trans} />
      <CardActions {...props} shown={shown} />
    </article>
  );
}

function meta(dataset: IDataset, trans: TranslationBundle): string {
  const size = formatSize(dataset.size, pageLanguage());
  const files = trans._n('%1 file', '%1 files', dataset.files, dataset.files);
  // No line break between a number and its unit.
  const numbers = [size, files].map(part => part.replace(/ /g, '\u00a0'));
  return [dataset.owner, ...numbers].filter(part => part !== '').join(' · ');
}

/** Why the dataset is in this state, until when, what to do, and whom to ask. */
function Standing(props: {
  dataset: IDataset;
  shown: DatasetShown;
  trans: TranslationBundle;
}): JSX.Element | null {
  const { dataset, shown, trans } = props;
  if (shown === 'locked' || shown === 'unlocked') {
    const sentence = standing(dataset, shown, trans);
    return (
      <>
        {dataset.ended && (
          <div className="sealroom-Why" data-tone="amber" data-testid="dataset-ended">
            <p>{trans.__('Your access here has ended. %1', dataset.ended.sentence)}</p>
            <p>{dataset.ended.advice}</p>
          </div>
        )}
        {sentence !== '' && <p data-testid="dataset-until">{sentence}</p>}
        {shown === 'unlocked' && dataset.outputs !== undefined && (
          <p data-testid="dataset-results">
            {dataset.outputs
              ? trans.__('Results may leave this server.')
              : trans.__('Results may not leave this server.')}
          </p>
        )}
      </>
    );
  }
  const contact = dataset.ask || (shown === 'absent' ? '' : dataset.contact);
  return (
    <div className="sealroom-Why" data-tone={datasetTone(shown)} data-testid="dataset-why">
      <Reasons reasons={reasonsOf(dataset, shown, trans)} />
      {dataset.ended && <p data-testid="dataset-advice">{dataset.ended.advice}</p>}
      {contact && (
        <p>
          {trans.__('Whom to ask:')} <Contact text={contact} />
        </p>
      )}
    </div>
  );
}

/** The reasons, with what has ended access before them unless they say the same. */
function reasonsOf(dataset: IDataset, shown: DatasetShown, trans: TranslationBundle): IReason[] {
  const { ended, reasons } = dataset;
  const own =
    reasons.length === 0 || shown === 'absent'
      ? [{ code: '', sentence: datasetReason(shown, trans) }, ...reasons]
      : reasons;
  const said = !ended || own.some(reason => reason.sentence === ended.sentence);
  return said ? own : [{ code: ended.code, sentence: ended.sentence }, ...own];
}

/** For what a dataset is open, and until when. */
function standing(
  dataset: IDataset,
  shown: 'locked' | 'unlocked',
  trans: TranslationBundle
): string {
  const until = dataset.until ? formatTime(dataset.until, pageLanguage()) : '';
  const purpose = dataset.purpose?.label ?? '';
  if (shown === 'locked') {
    return until && trans.__('You have access until %1.', until);
  }
  if (purpose && until) {
    return trans.__('Unlocked for %1, until %2.', purpose, until);
  }
  if (purpose) {
    return trans.__('Unlocked for %1.', purpose);
  }
  return until && trans.__('Unlocked until %1.', until);
}

function Origin(props: { dataset: IDataset; trans: TranslationBundle }): JSX.Element {
  const { dataset, trans } = props;
  const rows: [string, string][] = [
    [trans.__('Source'), dataset.source],
    [trans.__('Licence'), dataset.licence],
    [trans.__('Contact'), dataset.contact]
  ];
  return (
    <details className="sealroom-Origin">
      <summary>{trans.__('Source and licence')}</summary>
      <dl className="sealroom-Facts">
        {rows
          .filter(([, value]) => Boolean(value))
          .map(([label, value]) => (
            <React.Fragment key={label}>
              <dt>{label}</dt>
              <dd>
                <Contact text={value} />
              </dd>
            </React.Fragment>
          ))}
        <dt>{trans.__('Manifest')}</dt>
        <dd>
          <code className="sealroom-Digest">sha256:{dataset.manifest_sha256}</code>
        </dd>
      </dl>
    </details>
  );
}

function CardActions(
  props: IDatasetsProps & { dataset: IDataset; shown: DatasetShown }
): JSX.Element | null {
  const { dataset, shown } = props;
  if (shown === 'unlocked') {
    return (
      <div className="sealroom-Actions">
        <LockButton {...props} />
      </div>
    );
  }
  const asking = canAsk(shown) && isBrokersWord(dataset);
  const unlocking = shown === 'locked' || (shown === 'refused' && dataset.purposes.length > 0);
  if (!asking && !unlocking) {
    return null;
  }
  return (
    <div className="sealroom-Actions">
      {unlocking && <UnlockButton {...props} />}
      {asking && <AskButtons {...props} />}
    </div>
  );
}

/** Whether the broker itself says no: what only this server finds is not for an owner to grant. */
function isBrokersWord(dataset: IDataset): boolean {
  return !dataset.reasons.some(({ code }) => /^(broker|manifest|dataset)\./.test(code));
}

function UnlockButton(
  props: IDatasetsProps & { dataset: IDataset; shown: DatasetShown }
): JSX.Element {
  const { dataset, shown, model, trans, onUnlock } = props;
  const busy = model.isBusy(dataset.id);
  return (
    <Button
      appearance={shown === 'locked' ? 'accent' : 'neutral'}
      scale="medium"
      data-testid="unlock"
      aria-label={trans.__('Unlock %1', dataset.title || dataset.id)}
      disabled={busy}
      onClick={() => onUnlock(dataset.id)}
    >
      {busy
        ? trans.__('Unlocking…')
        : shown === 'locked'
          ? trans.__('Unlock')
          : trans.__('Try again')}
    </Button>
  );
}

function LockButton(props: IDatasetsProps & { dataset: IDataset }): JSX.Element {
  const { dataset, model, trans } = props;
  const busy = model.isBusy(dataset.id);
  return (
    <Button
      appearance="neutral"
      scale="medium"
      data-testid="lock"
      aria-label={trans.__('Lock %1 again', dataset.title || dataset.id)}
      disabled={busy}
      onClick={() => void model.lock(dataset.id).catch(() => undefined)}
    >
      {busy ? trans.__('Locking…') : trans.__('Lock again')}
    </Button>
  );
}

/** Ask for access or take the request back, and see what stands in the way. */
function AskButtons(props: IDatasetsProps & { dataset: IDataset }): JSX.Element {
  const { dataset, model, trans, onAsk, onWhy } = props;
  const title = dataset.title || dataset.id;
  const request = model.request(dataset.id);
  const busy = model.isBusy(dataset.id);
  const login = model.status?.login;
  const needsLogin = Boolean(login && login.state !== 'in');
  return (
    <>
      {request?.state === 'open' ? (
        <Button
          appearance="neutral"
          scale="medium"
          data-testid="take-back"
          aria-label={trans.__('Take back the request for %1', title)}
          disabled={busy}
          onClick={() => void model.takeBack(request).catch(() => undefined)}
        >
          {busy ? trans.__('Taking back…') : trans.__('Take back')}
        </Button>
      ) : (
        <Button
          appearance="accent"
          scale="medium"
          data-testid="ask"
          aria-label={trans.__('Ask for access to %1', title)}
          disabled={busy || needsLogin}
          onClick={() => onAsk(dataset.id)}
        >
          {trans.__('Ask for access…')}
        </Button>
      )}
      <Button
        appearance="neutral"
        scale="medium"
        data-testid="why"
        aria-label={trans.__('Why %1 is closed', title)}
        onClick={() => onWhy(dataset.id)}
      >
        {trans.__('Why?')}
      </Button>
      {needsLogin && (
        <p className="sealroom-Hint sealroom-muted">{trans.__('Log in above, then ask.')}</p>
      )}
    </>
  );
}
