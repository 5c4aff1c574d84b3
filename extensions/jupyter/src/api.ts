// SPDX-License-Identifier: BSD-3-Clause
/**
 * The routes of the server extension, `/sealroom/api/…`: what they answer, and one function that asks them.
 *
 * Types follow the server extension. Fields that an older or newer server may leave out are optional.
 */
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

export type Tier = 'affirming' | 'warning' | 'simulated' | 'contraindicated' | 'none';

export type Phase = 'starting' | 'evidence' | 'verified' | 'refused' | 'unreachable';

export type Outcome = 'passed' | 'failed' | 'not_checked';

/** One check of one device, in a sentence for people. */
export interface IClaim {
  check: string;
  outcome: Outcome;
  sentence: string;
}

/** One attested device of this server, for example `cpu0`. */
export interface IDevice {
  device: string;
  tier: Tier;
  title: string;
  claims: IClaim[];
}

/** The person's login at an identity provider of this server's own; absent where the hub says who they are. */
export interface ILogin {
  issuer: string;
  ways: ('browser' | 'device')[];
  state: 'out' | 'waiting' | 'in';
  name: string;
  until: string | null;
  /** Whether the server renews it by itself. */
  renews: boolean;
  error: { message: string; advice?: string } | null;
}

/** A login with a link and a code: what to open, and the code to compare. */
export interface IDeviceCode {
  uri: string;
  code: string;
  expires: string;
}

export interface IStatus {
  tier: Tier;
  title: string;
  sentences: string[];
  devices: IDevice[];
  proven_at: string | null;
  expires: string | null;
  environment: { name: string; title: string; version: string; digest: string } | null;
  provider: string;
  phase: Phase;
  error: { message: string; advice?: string } | null;
  person: { subject: string; name: string; issuer?: string } | null;
  login?: ILogin | null;
  broker: string;
  /** Name of the development root's certificate file, where there is one. */
  root?: string | null;
}

export interface ITerm {
  code: string;
  label: string;
}

export interface IReason {
  code: string;
  sentence: string;
}

export type Condition = 'locked' | 'unlocked' | 'not_granted' | 'expired' | 'withdrawn' | 'refused';

export interface IDataset {
  id: string;
  title: string;
  description: string;
  owner: string;
  contact: string;
  size: number;
  files: number;
  /** Names of the files, where the server knows them. */
  names?: string[];
  source: string;
  licence: string;
  manifest_sha256: string;
  terms: ITerm[];
  purposes: ITerm[];
  /** The purpose it was unlocked for. */
  purpose?: ITerm | null;
  state: Condition;
  until: string | null;
  /** Whether the person's grant lets results leave the server. */
  outputs?: boolean;
  reasons: IReason[];
  ask: string;
  /** Whether the sealed files are on this machine. */
  here: boolean;
  /** Purposes for which the dataset's terms let a person ask. */
  asks?: ITerm[];
  /** Why access that this server had has ended, and what to do now. */
  ended?: { code: string; sentence: string; advice: string; at: string | null } | null;
}

export type RequestState = 'open' | 'granted' | 'refused' | 'withdrawn';

/** A person's request for access, and what the owner said. */
export interface IRequest {
  id: string;
  dataset: string;
  title: string;
  purpose: ITerm;
  reason: string;
  until: string | null;
  created: string;
  state: RequestState;
  answer: string;
  answered: string | null;
  answered_by: string;
}

/** What a request for access says. */
export interface IAsk {
  purpose: string;
  reason: string;
  until: string | null;
}

/** One rule of the broker's decision. */
export interface IRule {
  code: string;
  outcome: 'passed' | 'failed' | 'not_reached';
  sentence: string;
}

/** What the broker would decide now, rule by rule. */
export interface IExplanation {
  dataset: string;
  title: string;
  purpose: ITerm | null;
  allowed: boolean;
  rules: IRule[];
  ask: string;
}

/** A release to this person; `index` is its entry in the broker's audit log. */
export interface IRelease {
  index: number;
  time: string;
  dataset: string;
  title: string;
  purpose: ITerm;
  grant: string;
  /** The log's key as the broker gives it. */
  key: string;
}

/** A file to save. */
export interface IFile {
  name: string;
  text: string;
}

/** A line of the preview of what a request for keys sends. */
export interface IPreviewItem {
  label: string;
  value: string;
}

/** Says what went wrong, in the server's own words where it has any. */
export class RequestError extends Error {
  /** What to do about it; may be empty. */
  readonly advice: string;
  /** Why it was refused, sentence by sentence. */
  readonly reasons: readonly IReason[];
  /** HTTP status; 0 where no answer came at all. */
  readonly status: number;

  constructor(message: string, status: number, advice = '', reasons: readonly IReason[] = []) {
    super(message);
    this.name = 'RequestError';
    this.status = status;
    this.advice = advice;
    this.reasons = reasons;
  }
}

/** An answer, and the time at which the server gave it (its clock, not the browser's). */
export interface IAnswer<T> {
  data: T;
  at: Date | null;
}

/**
 * Ask one route of the server extension.
 *
 * @param path Path below `/sealroom/api/`; every part must already be URL-encoded.
 * @param settings Connection to the notebook server; it adds the token or the XSRF header.
 * @param body Body of a POST; without one the request is a GET.
 * @throws RequestError for every answer but a 2xx one, and where no answer came.
 */
export async function ask<T>(
  path: string,
  settings: ServerConnection.ISettings,
  body?: object
): Promise<IAnswer<T>> {
  const url = URLExt.join(settings.baseUrl, 'sealroom', 'api', path);
  const init: RequestInit =
    body === undefined
      ? { method: 'GET', cache: 'no-store' }
      : { method: 'POST', body: JSON.stringify(body) };
  let response: Response;
  let text: string;
  try {
    response = await ServerConnection.makeRequest(url, init, settings);
    text = await response.text();
  } catch {
    throw new RequestError('The notebook server does not answer.', 0);
  }
  const data = parse(text);
  if (!response.ok) {
    throw refusal(response.status, data);
  }
  if (data === undefined) {
    throw new RequestError('The notebook server gave an answer that is not JSON.', response.status);
  }
  const date = new Date(response.headers.get('Date') ?? NaN);
  return { data: data as T, at: isNaN(date.getTime()) ? null : date };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refusal(status: number, data: unknown): RequestError {
  const body = (data !== null && typeof data === 'object' ? data : {}) as Record<string, unknown>;
  const word = (key: string): string => (typeof body[key] === 'string' ? body[key] : '');
  if (status === 404 && !word('message')) {
    return new RequestError('The Sealroom server extension is not running on this server.', status);
  }
  const reasons = Array.isArray(body.reasons) ? body.reasons.map(reason) : [];
  const message = word('message') || `The notebook server answered with HTTP status ${status}.`;
  return new RequestError(message, status, word('advice'), reasons);
}

function reason(item: unknown): IReason {
  if (typeof item === 'string') {
    return { code: '', sentence: item };
  }
  const { code, sentence } = (item ?? {}) as Partial<IReason>;
  return { code: String(code ?? ''), sentence: String(sentence ?? '') };
}
