// SPDX-License-Identifier: BSD-3-Clause
import { Button } from '@jupyter/react-components';
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { IClaim, IDevice, IStatus } from '../api';
import { iconFor, outcomeIcon, processorIcon } from '../icons';
import { isCurrent, knownTier, labelOf, outcomeLabel, toneOf } from '../tiers';
import type { Shown } from '../tiers';
import type { ISealroomModel } from '../tokens';
import { Chip, Failure, Icon, When } from './parts';

export interface IServerProps {
  model: ISealroomModel;
  trans: TranslationBundle;
  onVerify: () => void;
}

/** What this server proved: when, by which device, check by check. */
export function Server(props: IServerProps): JSX.Element {
  const { model, trans, onVerify } = props;
  const { status } = model;
  return (
    <div className="sealroom-Section">
      <div className="sealroom-Actions">
        <Button
          appearance="neutral"
          scale="medium"
          data-testid="prove-again"
          disabled={model.proving}
          onClick={() => void model.prove().catch(() => undefined)}
        >
          {model.proving ? trans.__('Proving…') : trans.__('Prove again')}
        </Button>
        <Button
          appearance="neutral"
          scale="medium"
          data-testid="verify-yourself"
          onClick={onVerify}
        >
          {trans.__('Verify yourself')}
        </Button>
      </div>
      <div aria-live="polite">{model.proveError && <Failure error={model.proveError} />}</div>
      {status !== null && <Facts status={status} model={model} trans={trans} />}
      {status?.devices.map(device => (
        <Device key={device.device} device={device} shown={model.shown} trans={trans} />
      ))}
      {status !== null && status.devices.length === 0 && (
        <p className="sealroom-muted">
          {trans.__('No device of this server has proven itself yet.')}
        </p>
      )}
    </div>
  );
}

function Facts(props: {
  status: IStatus;
  model: ISealroomModel;
  trans: TranslationBundle;
}): JSX.Element {
  const { status, model, trans } = props;
  const now = model.now();
  const { environment, person } = status;
  return (
    <dl className="sealroom-Facts">
      <dt>{trans.__('Last proven')}</dt>
      <dd data-testid="proven-at">
        {status.proven_at ? <When at={status.proven_at} now={now} /> : trans.__('Not yet')}
      </dd>
      {environment && (
        <>
          <dt>{trans.__('Environment')}</dt>
          <dd title={environment.digest}>
            {environment.title || environment.name}{' '}
            {environment.version && (
              <span className="sealroom-muted">{trans.__('version %1', environment.version)}</span>
            )}
          </dd>
        </>
      )}
      {person && (
        <>
          <dt>{trans.__('Signed in as')}</dt>
          <dd>{person.name || person.subject}</dd>
        </>
      )}
    </dl>
  );
}

function Device(props: { device: IDevice; shown: Shown; trans: TranslationBundle }): JSX.Element {
  const { device, shown, trans } = props;
  const last = knownTier(device.tier);
  // What does not hold now is never shown in the colour of what does.
  const tier = isCurrent(shown) ? last : shown;
  const label = labelOf(last, trans);
  const failed = device.claims.some(claim => claim.outcome === 'failed');
  const tone = toneOf(tier);
  return (
    <details
      className="sealroom-Device"
      data-testid="sealroom-device"
      data-device={device.device}
      data-tier={tier}
      open={failed || undefined}
    >
      <summary>
        <span className="sealroom-Device-head">
          <Icon icon={processorIcon} />
          <span className="sealroom-Device-title">{device.title || device.device}</span>
          <Chip
            tone={tone}
            icon={iconFor(tier)}
            label={tier === last ? label : trans.__('Last known: %1', label)}
          />
        </span>
        <span className="sealroom-Device-count">{count(device.claims, trans)}</span>
      </summary>
      <ul
        className="sealroom-Checks"
        aria-label={trans.__('Checks of %1', device.title || device.device)}
      >
        {device.claims.map((claim, index) => (
          <Check key={`${claim.check}:${index}`} claim={claim} trans={trans} />
        ))}
      </ul>
    </details>
  );
}

function Check(props: { claim: IClaim; trans: TranslationBundle }): JSX.Element {
  const { claim, trans } = props;
  const label = outcomeLabel(claim.outcome, trans);
  return (
    <li data-testid="sealroom-check" data-check={claim.check} data-outcome={claim.outcome}>
      <span title={label}>
        <Icon icon={outcomeIcon(claim.outcome)} />
        <span className="sealroom-hidden">{label}: </span>
      </span>
      <span>{claim.sentence}</span>
    </li>
  );
}

function count(claims: readonly IClaim[], trans: TranslationBundle): string {
  const of = (outcome: string): number => claims.filter(c => c.outcome === outcome).length;
  const failed = of('failed');
  const passed = of('passed');
  const open = claims.length - failed - passed;
  const parts = [];
  if (failed > 0) {
    parts.push(trans._n('%1 check failed', '%1 checks failed', failed, failed));
  }
  if (passed > 0) {
    parts.push(trans._n('%1 check passed', '%1 checks passed', passed, passed));
  }
  if (open > 0) {
    parts.push(trans._n('%1 not checked', '%1 not checked', open, open));
  }
  return parts.length > 0 ? parts.join(' · ') : trans.__('No checks');
}
