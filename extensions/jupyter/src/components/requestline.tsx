// SPDX-License-Identifier: BSD-3-Clause
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { IRequest } from '../api';
import { formatTime } from '../format';
import type { DatasetShown, Tone } from '../tiers';
import { pageLanguage } from './parts';

/** How one's request for a dataset stands, and what the owner said. */
export function RequestLine(props: {
  request: IRequest | undefined;
  shown: DatasetShown;
  until: string | null;
  trans: TranslationBundle;
}): JSX.Element | null {
  const { request, shown, until, trans } = props;
  if (request === undefined || !isOfUse(request, shown)) {
    return null;
  }
  return (
    <div
      className="sealroom-Request"
      data-testid="request-state"
      data-state={request.state}
      data-tone={tone(request)}
    >
      <p>
        <strong>{headline(request, until, trans)}</strong>{' '}
        <span className="sealroom-muted">
          {trans.__('You asked for: %1', request.purpose.label)}
        </span>
      </p>
      {request.answer && (
        <p>
          {trans.__('The owner says:')}{' '}
          <q className="sealroom-Words" data-testid="request-answer">
            {request.answer}
          </q>
        </p>
      )}
    </div>
  );
}

/** A yes is old news once the grant has ended; a no, once there is access. */
function isOfUse(request: IRequest, shown: DatasetShown): boolean {
  const open = shown === 'locked' || shown === 'unlocked';
  return request.state === 'open' || (request.state === 'granted') === open;
}

function tone(request: IRequest): Tone {
  switch (request.state) {
    case 'granted':
      return 'green';
    case 'refused':
      return 'red';
    default:
      return 'blue';
  }
}

function headline(request: IRequest, until: string | null, trans: TranslationBundle): string {
  const when = (time: string | null): string => formatTime(time ?? request.created, pageLanguage());
  switch (request.state) {
    case 'granted':
      return until === null
        ? trans.__('Granted on %1, with no end.', when(request.answered))
        : trans.__('Granted on %1.', when(request.answered));
    case 'refused':
      return trans.__('Your request was refused on %1.', when(request.answered));
    default:
      return trans.__('Your request is open since %1.', when(request.created));
  }
}
