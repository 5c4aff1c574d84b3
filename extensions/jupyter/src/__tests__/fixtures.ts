// SPDX-License-Identifier: BSD-3-Clause
/** Answers of a server extension, and a connection to one that is not there. */
import { ServerConnection } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IDataset, IRequest, IStatus } from '../api';

export const NOW = new Date('2026-11-24T10:00:00Z');

/** The source texts themselves, with their arguments put in. */
export const trans = {
  __: (text: string, ...args: unknown[]): string =>
    text.replace(/%(\d)/g, (_, index) => String(args[Number(index) - 1]))
} as TranslationBundle;

export function status(change: Partial<IStatus> = {}): IStatus {
  return {
    tier: 'simulated',
    title: 'Simulated TEE',
    sentences: ['One.', 'Two.'],
    devices: [
      {
        device: 'cpu0',
        tier: change.tier ?? 'simulated',
        title: 'CPU',
        claims: [{ check: 'signature', outcome: 'passed', sentence: 'Signed.' }]
      }
    ],
    proven_at: '2026-11-24T09:59:00Z',
    expires: '2026-11-24T10:09:00Z',
    environment: null,
    provider: 'simulated',
    phase: 'verified',
    error: null,
    person: null,
    broker: '',
    ...change
  };
}

export function dataset(change: Partial<IDataset> = {}): IDataset {
  return {
    id: 'heartbeats',
    title: 'Heartbeats',
    description: '',
    owner: 'Hospital',
    contact: '',
    size: 1,
    files: 1,
    source: '',
    licence: '',
    manifest_sha256: '00',
    terms: [],
    purposes: [{ code: 'DUO:0000042', label: 'general research use' }],
    state: 'locked',
    until: null,
    reasons: [],
    ask: '',
    here: true,
    ...change
  };
}

export function request(change: Partial<IRequest> = {}): IRequest {
  return {
    id: 'r1',
    dataset: 'heartbeats',
    title: 'Heartbeats',
    purpose: { code: 'DUO:0000042', label: 'general research use' },
    reason: 'To train.',
    until: null,
    created: '2026-11-24T09:00:00Z',
    state: 'open',
    answer: '',
    answered: null,
    answered_by: '',
    ...change
  };
}

export interface ICall {
  method: string;
  path: string;
  query: string;
  body: string;
}

/** What a route answers: a body with status 200, or a response of its own. */
export type Answers = Record<string, () => object | Response | Promise<object | Response>>;

/** Connection whose routes are functions; unknown ones answer 404. */
export function connection(answers: Answers, calls: ICall[] = []): ServerConnection.ISettings {
  const fetch = async (input: RequestInfo | URL, init?: RequestInit): Promise<Response> => {
    const request = new Request(input, init);
    const url = new URL(request.url);
    const path = url.pathname.replace('/user/ada/sealroom/api/', '');
    calls.push({ method: request.method, path, query: url.search, body: await request.text() });
    const answer = await (answers[path] ?? (() => new Response('', { status: 404 })))();
    return answer instanceof Response ? answer : Response.json(answer);
  };
  return ServerConnection.makeSettings({
    baseUrl: 'http://127.0.0.1:1/user/ada/',
    fetch,
    Request,
    Headers
  });
}
