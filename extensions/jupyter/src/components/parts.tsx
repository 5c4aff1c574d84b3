// SPDX-License-Identifier: BSD-3-Clause
/** Small pieces that several components share. */
import { Clipboard } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { copyIcon, LabIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import type { IPreviewItem, IReason, RequestError } from '../api';
import { formatRelative, formatShortTime, formatTime } from '../format';
import type { Tone } from '../tiers';

/** Language of the page, for dates and numbers. */
export function pageLanguage(): string | undefined {
  return document.documentElement.lang || undefined;
}

export function Icon(props: { icon: LabIcon; className?: string }): JSX.Element {
  const { icon, className = '' } = props;
  return (
    <span aria-hidden="true" className={`sealroom-Icon ${className}`}>
      <icon.react tag={null} />
    </span>
  );
}

/** A state in words with an icon; the colour only repeats what they say. */
export function Chip(props: {
  tone: Tone;
  icon: LabIcon;
  label: string;
  testid?: string;
}): JSX.Element {
  return (
    <span className="sealroom-Chip" data-tone={props.tone} data-testid={props.testid}>
      <Icon icon={props.icon} />
      {props.label}
    </span>
  );
}

/** A time in both forms: how long ago, and when. */
export function When(props: { at: string; now: Date }): JSX.Element {
  const language = pageLanguage();
  return (
    <time dateTime={props.at} title={formatTime(props.at, language)}>
      {formatRelative(props.at, props.now, language)}
      <span className="sealroom-muted"> · {formatShortTime(props.at, props.now, language)}</span>
    </time>
  );
}

/** Code with a button that copies it. */
export function CopyBlock(props: {
  text: string;
  label: string;
  testid: string;
  trans: TranslationBundle;
}): JSX.Element {
  const { text, label, testid, trans } = props;
  const [copied, setCopied] = React.useState(false);
  React.useEffect(() => setCopied(false), [text]);
  return (
    <div className="sealroom-Copy">
      <pre tabIndex={0} aria-label={label} data-testid={testid}>
        <code>{text}</code>
      </pre>
      <button
        type="button"
        className="sealroom-Copy-button"
        aria-label={trans.__('Copy: %1', label)}
        title={trans.__('Copy')}
        data-testid={`${testid}-copy`}
        onClick={() => {
          Clipboard.copyToSystem(text);
          setCopied(true);
        }}
      >
        <Icon icon={copyIcon} />
        <span role="status">{copied ? trans.__('Copied') : ''}</span>
      </button>
    </div>
  );
}

/** Reasons as sentences, one below the other. */
export function Reasons(props: { reasons: readonly IReason[] }): JSX.Element | null {
  if (props.reasons.length === 0) {
    return null;
  }
  return (
    <ul className="sealroom-Reasons" data-testid="reasons">
      {props.reasons.map((reason, index) => (
        <li key={index} data-code={reason.code}>
          {reason.sentence}
        </li>
      ))}
    </ul>
  );
}

/** What went wrong, why, and what to do: always as text. */
export function Failure(props: { error: RequestError; testid?: string }): JSX.Element {
  const { error, testid = 'failure' } = props;
  const reasons = error.reasons.filter(reason => reason.sentence !== error.message);
  return (
    <div className="sealroom-Failure" data-testid={testid}>
      <p className="sealroom-Failure-message">{error.message}</p>
      <Reasons reasons={reasons} />
      {error.advice && <p>{error.advice}</p>}
    </div>
  );
}

/** A contact; only an address or a web link becomes a link, whatever else the text holds. */
export function Contact(props: { text: string }): JSX.Element {
  const { text } = props;
  if (/^[^\s@<>]+@[^\s@<>]+$/.test(text)) {
    return <a href={`mailto:${text}`}>{text}</a>;
  }
  return <Linked text={text} />;
}

export function Linked(props: { text: string }): JSX.Element {
  const { text } = props;
  if (/^https?:\/\/[^\s<>"']+$/.test(text)) {
    return (
      <a href={text} target="_blank" rel="noopener noreferrer">
        {text}
      </a>
    );
  }
  return <>{text}</>;
}

/** Labels with values, in a box that scrolls if it must. */
export function Items(props: {
  items: readonly IPreviewItem[];
  label: string;
  testid: string;
}): JSX.Element {
  return (
    <dl
      className="sealroom-Preview"
      data-testid={props.testid}
      aria-label={props.label}
      tabIndex={0}
    >
      {props.items.map((item, index) => (
        <React.Fragment key={index}>
          <dt>{item.label}</dt>
          <dd>{item.value}</dd>
        </React.Fragment>
      ))}
    </dl>
  );
}

/** Hand a text to the browser as a download. */
export function saveFile(name: string, text: string, type = 'application/json'): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  document.body.appendChild(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
