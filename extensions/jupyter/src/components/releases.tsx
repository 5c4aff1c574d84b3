// SPDX-License-Identifier: BSD-3-Clause
import { Button } from '@jupyter/react-components';
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { IRelease } from '../api';
import { RequestError } from '../api';
import { proofCommand } from '../format';
import type { ISealroomModel } from '../tokens';
import { CopyBlock, Failure, saveFile, When } from './parts';

/** What was released to the person, with proofs that it stands in the broker's audit log. */
export function Releases(props: { model: ISealroomModel; trans: TranslationBundle }): JSX.Element {
  const { model, trans } = props;
  const { releases, releasesError, status } = model;
  const person = status?.phase === 'verified' ? (status.person?.subject ?? '') : '';
  const unlocked = (model.datasets ?? [])
    .filter(one => one.state === 'unlocked')
    .map(one => one.id);
  // Another dataset was unlocked, or somebody else is there: the list may have grown.
  const state = [person, ...unlocked].join(' ');
  React.useEffect(() => {
    if (person !== '') {
      void model.loadReleases();
    }
  }, [state]);
  return (
    <div className="sealroom-Section">
      <p className="sealroom-muted">
        {trans.__(
          'Each release of keys to you, from any server, with a proof that it stands in the broker’s audit log.'
        )}
      </p>
      <div className="sealroom-Actions">
        <Button
          appearance="neutral"
          scale="medium"
          data-testid="releases-refresh"
          disabled={person === ''}
          onClick={() => void model.loadReleases()}
        >
          {trans.__('Refresh list')}
        </Button>
      </div>
      <div aria-live="polite">
        {releasesError && <Failure error={releasesError} testid="releases-error" />}
      </div>
      {releases !== null && releases.length === 0 && (
        <p className="sealroom-muted">{trans.__('Nothing was released to you yet.')}</p>
      )}
      {releases !== null && releases.length > 0 && (
        <ul className="sealroom-Releases" aria-label={trans.__('Releases, newest first')}>
          {releases.map(release => (
            <Release key={release.index} release={release} model={model} trans={trans} />
          ))}
        </ul>
      )}
    </div>
  );
}

function Release(props: {
  release: IRelease;
  model: ISealroomModel;
  trans: TranslationBundle;
}): JSX.Element {
  const { release, model, trans } = props;
  const [failure, setFailure] = React.useState<RequestError | null>(null);
  const [saved, setSaved] = React.useState('');
  const [busy, setBusy] = React.useState(false);
  const title = release.title || release.dataset;
  const save = async (): Promise<void> => {
    setBusy(true);
    setFailure(null);
    try {
      const { name, text } = await model.proof(release.index);
      saveFile(name, text, 'text/plain');
      setSaved(name);
    } catch (error) {
      setFailure(error instanceof RequestError ? error : new RequestError(String(error), 0));
    } finally {
      setBusy(false);
    }
  };
  return (
    <li className="sealroom-Card" data-testid="release" data-index={release.index}>
      <h3>{title}</h3>
      <p className="sealroom-Card-meta">
        <When at={release.time} now={model.now()} />
      </p>
      <p>
        {release.purpose.label}
        <span className="sealroom-muted"> · {trans.__('log entry %1', release.index)}</span>
      </p>
      <div className="sealroom-Actions">
        <Button
          appearance="neutral"
          scale="medium"
          data-testid="release-proof"
          aria-label={trans.__('Download proof of entry %1, %2', release.index, title)}
          disabled={busy}
          onClick={() => void save()}
        >
          {trans.__('Download proof')}
        </Button>
      </div>
      <div aria-live="polite">
        {failure && <Failure error={failure} testid="release-failure" />}
        {saved !== '' && !failure && (
          <>
            <p className="sealroom-Hint">
              {trans.__(
                'Check it where you have the command-line tool, with the log’s key from the owner in the file audit.pub:'
              )}
            </p>
            <CopyBlock
              text={proofCommand(saved)}
              label={trans.__('Command that checks the proof')}
              testid="release-command"
              trans={trans}
            />
            <p className="sealroom-Hint sealroom-muted">
              {trans.__('The broker says that the key is:')}{' '}
              <code className="sealroom-Digest" data-testid="release-key">
                {release.key}
              </code>
            </p>
          </>
        )}
      </div>
    </li>
  );
}
