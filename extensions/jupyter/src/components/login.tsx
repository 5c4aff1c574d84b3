// SPDX-License-Identifier: BSD-3-Clause
import { Button } from '@jupyter/react-components';
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { IDeviceCode, ILogin } from '../api';
import { RequestError } from '../api';
import { formatShortTime, issuerHost } from '../format';
import type { ISealroomModel } from '../tokens';
import { Failure, Linked, pageLanguage } from './parts';
import { ITaskState, TaskBody, TaskDialog } from './taskdialog';

export interface ILoginProps {
  model: ISealroomModel;
  trans: TranslationBundle;
  onLogInWithCode: () => void;
}

/** The login at an identity provider of this server's own; nothing where the hub says who the person is. */
export function Login(props: ILoginProps): JSX.Element | null {
  const login = props.model.status?.login;
  return login ? <LoginBox {...props} login={login} /> : null;
}

function LoginBox(props: ILoginProps & { login: ILogin }): JSX.Element {
  const { login, model, trans } = props;
  const [failure, setFailure] = React.useState<RequestError | null>(null);
  const [link, setLink] = React.useState('');
  React.useEffect(() => setLink(''), [login.state]);
  const attempt = (work: () => Promise<void>): void => {
    setFailure(null);
    work().catch(error =>
      setFailure(error instanceof RequestError ? error : new RequestError(String(error), 0))
    );
  };
  const told = login.error && new RequestError(login.error.message, 0, login.error.advice ?? '');
  return (
    <section
      className="sealroom-Login"
      aria-label={trans.__('Login')}
      data-testid="login"
      data-state={login.state}
    >
      <div aria-live="polite">
        <p>{sentence(login, model, trans)}</p>
        {(failure ?? told) && <Failure error={(failure ?? told)!} testid="login-failure" />}
        {link && login.state === 'waiting' && (
          <p>
            {trans.__('Your browser opened no tab. Open it yourself:')} <Linked text={link} />
          </p>
        )}
      </div>
      <div className="sealroom-Actions">
        <LoginButtons {...props} attempt={attempt} onLink={setLink} />
      </div>
    </section>
  );
}

function sentence(login: ILogin, model: ISealroomModel, trans: TranslationBundle): string {
  const host = issuerHost(login.issuer);
  if (login.state === 'waiting') {
    return trans.__('Waiting for your login at %1…', host);
  }
  if (login.state === 'out') {
    return trans.__('The broker does not know who you are: you are not logged in at %1.', host);
  }
  if (login.until === null) {
    return trans.__('Logged in as %1 at %2.', login.name, host);
  }
  const until = formatShortTime(login.until, model.now(), pageLanguage());
  return login.renews
    ? trans.__('Logged in as %1 at %2, until %3; renewed by itself.', login.name, host, until)
    : trans.__('Logged in as %1 at %2, until %3; log in again then.', login.name, host, until);
}

function LoginButtons(
  props: ILoginProps & {
    login: ILogin;
    attempt: (work: () => Promise<void>) => void;
    onLink: (link: string) => void;
  }
): JSX.Element {
  const { login, model, trans, attempt, onLink, onLogInWithCode } = props;
  const host = issuerHost(login.issuer);
  if (login.state === 'in') {
    return (
      <Button
        appearance="neutral"
        scale="medium"
        data-testid="log-out"
        onClick={() => attempt(() => model.logOut())}
      >
        {trans.__('Log out')}
      </Button>
    );
  }
  if (login.state === 'waiting') {
    return (
      <Button
        appearance="neutral"
        scale="medium"
        data-testid="log-in-cancel"
        onClick={() => attempt(() => model.cancelLogin())}
      >
        {trans.__('Cancel')}
      </Button>
    );
  }
  return (
    <>
      {login.ways.includes('browser') && (
        <Button
          appearance="accent"
          scale="medium"
          data-testid="log-in"
          onClick={() => attempt(() => inBrowser(model, onLink))}
        >
          {trans.__('Log in at %1', host)}
        </Button>
      )}
      {login.ways.includes('device') && (
        <Button
          appearance="neutral"
          scale="medium"
          data-testid="log-in-code"
          onClick={onLogInWithCode}
        >
          {trans.__('Log in with a code…')}
        </Button>
      )}
    </>
  );
}

/** Begin a login in a tab of its own; the tab is opened with the click, or the browser would block it. */
async function inBrowser(model: ISealroomModel, onLink: (link: string) => void): Promise<void> {
  const tab = window.open('', '_blank');
  try {
    const url = webAddress(await model.logInInBrowser(window.location.origin));
    if (tab === null) {
      onLink(url);
      return;
    }
    tab.opener = null;
    tab.location.href = url;
  } catch (error) {
    tab?.close();
    throw error;
  }
}

function webAddress(url: string): string {
  if (!/^https?:\/\//.test(url)) {
    throw new RequestError('The identity provider names a page that is no web address.', 0);
  }
  return url;
}

/** Log in with a link and a code: show both, and wait until the person has used them. */
export async function showCodeDialog(
  model: ISealroomModel,
  trans: TranslationBundle
): Promise<void> {
  const body = new CodeBody(model, trans);
  const dialog = new TaskDialog({
    title: trans.__('Log in at %1', issuerHost(model.status?.login?.issuer ?? '')),
    body,
    cancel: trans.__('Cancel'),
    accept: trans.__('Open the page'),
    testid: 'login-code',
    focus: 'a'
  });
  const watch = (): void => {
    body.look();
    if (body.isDone && !dialog.isDisposed) {
      dialog.resolve(0);
    }
  };
  model.changed.connect(watch);
  try {
    await dialog.launch().catch(() => undefined);
  } finally {
    model.changed.disconnect(watch);
    if (model.status?.login?.state === 'waiting') {
      await model.cancelLogin().catch(() => undefined);
    }
  }
}

class CodeBody extends TaskBody {
  constructor(
    private readonly _model: ISealroomModel,
    private readonly _trans: TranslationBundle
  ) {
    super();
    void this._begin();
  }

  /** Whether the person is logged in. */
  get isDone(): boolean {
    return this._code !== null && this._model.status?.login?.state === 'in';
  }

  /** Take note of a change of the model. */
  look(): void {
    this.touched();
  }

  canRun(): boolean {
    return this._code !== null && this._model.status?.login?.state !== 'out';
  }

  protected async task(): Promise<boolean> {
    window.open(webAddress(this._code!.uri), '_blank', 'noopener');
    return false;
  }

  protected view(_: ITaskState): JSX.Element {
    const trans = this._trans;
    const login = this._model.status?.login;
    const told = login?.error && new RequestError(login.error.message, 0, login.error.advice ?? '');
    const error = this._error ?? told;
    return (
      <>
        <p>
          {trans.__(
            'Open the page and log in there. Approve only if it shows the same code as here, and never a code that somebody has sent you.'
          )}
        </p>
        {this._code && (
          <>
            <p className="sealroom-Code" data-testid="login-code-value">
              {this._code.code}
            </p>
            <p>
              <Linked text={this._code.uri} />
            </p>
            <p className="sealroom-muted">
              {trans.__(
                'The code is good until %1.',
                formatShortTime(this._code.expires, this._model.now(), pageLanguage())
              )}
            </p>
          </>
        )}
        <div role="status" className="sealroom-Dialog-status" data-testid="login-code-status">
          {error ? (
            <Failure error={error} testid="login-code-failure" />
          ) : (
            <p className="sealroom-Progress">
              {this._code === null
                ? trans.__('Asking the identity provider for a code…')
                : trans.__('Waiting for you to log in…')}
            </p>
          )}
        </div>
      </>
    );
  }

  private async _begin(): Promise<void> {
    try {
      this._code = await this._model.logInWithCode();
    } catch (error) {
      this._error = error instanceof RequestError ? error : new RequestError(String(error), 0);
    }
    this.touched();
  }

  private _code: IDeviceCode | null = null;
  private _error: RequestError | null = null;
}
