// SPDX-License-Identifier: BSD-3-Clause
import type { ServerConnection } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { ISignal, Signal } from '@lumino/signaling';
import { ask, RequestError } from './api';
import type {
  IAsk,
  IDataset,
  IDeviceCode,
  IExplanation,
  IFile,
  IPreviewItem,
  IRelease,
  IRequest,
  IStatus,
  ITerm
} from './api';
import { shownFor } from './tiers';
import type { Shown } from './tiers';
import type { ISealroomModel } from './tokens';

/** Longest pause between questions after failures, in milliseconds. */
const MAX_PAUSE = 30_000;

/** Pause while the server is starting, in milliseconds. */
const SOON = 1_500;

/** The model behind the status bar, the panel and the commands. */
export class SealroomModel implements ISealroomModel, IDisposable {
  constructor(options: SealroomModel.IOptions) {
    this._settings = options.settings;
    this._poll = new Poll({
      name: '@sealroom/lab:model',
      auto: false,
      factory: () => this._ask(),
      frequency: { interval: 5_000, backoff: true, max: MAX_PAUSE },
      standby: options.standby ?? 'when-hidden'
    });
  }

  get status(): IStatus | null {
    return this._status;
  }

  get statusError(): RequestError | null {
    return this._statusError;
  }

  get datasets(): readonly IDataset[] | null {
    return this._datasets;
  }

  get datasetsError(): RequestError | null {
    return this._datasetsError;
  }

  get purposes(): readonly ITerm[] {
    return this._purposes;
  }

  get requests(): readonly IRequest[] | null {
    return this._requests;
  }

  get releases(): readonly IRelease[] | null {
    return this._releases;
  }

  get releasesError(): RequestError | null {
    return this._releasesError;
  }

  get shown(): Shown {
    return shownFor(this._status, this._statusError === null, this.now());
  }

  get proving(): boolean {
    return this._proving;
  }

  get proveError(): RequestError | null {
    return this._proveError;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._poll.isDisposed;
  }

  /** Seconds between polls. */
  set interval(seconds: number) {
    const interval = Math.max(1, seconds) * 1000;
    this._poll.frequency = { interval, backoff: true, max: Math.max(MAX_PAUSE, interval) };
  }

  /** Start polling. */
  start(): void {
    void this._poll.start();
  }

  dispose(): void {
    if (!this.isDisposed) {
      clearTimeout(this._soon);
      this._poll.dispose();
      Signal.clearData(this);
    }
  }

  now(): Date {
    return new Date(Date.now() + this._skew);
  }

  dataset(id: string): IDataset | undefined {
    return this._datasets?.find(dataset => dataset.id === id);
  }

  isBusy(id: string): boolean {
    return this._busy.has(id);
  }

  failure(id: string): RequestError | null {
    return this._failures.get(id) ?? null;
  }

  async refresh(): Promise<void> {
    await this._poll.refresh();
    await this._poll.tick.catch(() => undefined);
  }

  async prove(): Promise<void> {
    this._proving = true;
    this._proveError = null;
    this._generation += 1;
    this._changed.emit();
    try {
      const answer = await ask<IStatus>('prove', this._settings, {});
      this._takeStatus(answer.data, answer.at);
    } catch (error) {
      this._proveError = asRequestError(error);
      throw this._proveError;
    } finally {
      this._proving = false;
      this._generation += 1;
      this._changed.emit();
      void this._poll.refresh();
    }
  }

  async evidence(nonce: string): Promise<string> {
    const answer = await ask<object>('evidence', this._settings, { nonce });
    return JSON.stringify(answer.data, null, 2) + '\n';
  }

  async preview(id: string): Promise<readonly IPreviewItem[]> {
    const path = `datasets/${encodeURIComponent(id)}/request-preview`;
    const answer = await ask<{ items: IPreviewItem[] }>(path, this._settings);
    return answer.data.items ?? [];
  }

  async unlock(id: string, purpose: string): Promise<void> {
    await this._change(id, 'unlock', { purpose });
  }

  async lock(id: string): Promise<void> {
    await this._change(id, 'lock', {});
  }

  request(dataset: string): IRequest | undefined {
    return this._requests?.find(one => one.dataset === dataset && one.state !== 'withdrawn');
  }

  async explain(id: string, purpose: string): Promise<IExplanation> {
    const query = purpose === '' ? '' : `?purpose=${encodeURIComponent(purpose)}`;
    const path = `datasets/${encodeURIComponent(id)}/explain${query}`;
    const { data } = await ask<IExplanation>(path, this._settings);
    return { ...data, rules: data.rules ?? [] };
  }

  async askPreview(id: string): Promise<readonly IPreviewItem[]> {
    const path = `datasets/${encodeURIComponent(id)}/ask-preview`;
    const answer = await ask<{ items: IPreviewItem[] }>(path, this._settings);
    return answer.data.items ?? [];
  }

  async askForAccess(id: string, words: IAsk): Promise<void> {
    const path = `datasets/${encodeURIComponent(id)}/ask`;
    await this._during(id, async () => {
      const answer = await ask<IRequest>(path, this._settings, words);
      this._mergeRequest(answer.data);
    });
  }

  async takeBack(request: IRequest): Promise<void> {
    const path = `requests/${encodeURIComponent(request.id)}/take-back`;
    await this._during(request.dataset, async () => {
      try {
        const answer = await ask<IRequest>(path, this._settings, {});
        this._mergeRequest(answer.data);
      } catch (error) {
        this._failures.set(request.dataset, asRequestError(error));
        throw error;
      }
    });
  }

  async loadReleases(): Promise<void> {
    try {
      const answer = await ask<{ releases: IRelease[] }>('releases', this._settings);
      this._releases = answer.data.releases ?? [];
      this._releasesError = null;
    } catch (error) {
      this._releasesError = asRequestError(error);
    }
    if (!this.isDisposed) {
      this._changed.emit();
    }
  }

  async proof(index: number): Promise<IFile> {
    const answer = await ask<IFile>(`releases/${index}/proof`, this._settings);
    return answer.data;
  }

  async logInInBrowser(origin: string): Promise<string> {
    const answer = await ask<{ url: string }>('login/browser', this._settings, { origin });
    void this._poll.refresh();
    return answer.data.url;
  }

  async logInWithCode(): Promise<IDeviceCode> {
    const answer = await ask<IDeviceCode>('login/device', this._settings, {});
    void this._poll.refresh();
    return answer.data;
  }

  async cancelLogin(): Promise<void> {
    await this._statusAfter('login/cancel');
  }

  async logOut(): Promise<void> {
    await this._statusAfter('logout');
    this._requests = null;
    this._releases = null;
    this._changed.emit();
  }

  /** Make a call that answers the status. */
  private async _statusAfter(path: string): Promise<void> {
    this._generation += 1;
    try {
      const answer = await ask<IStatus>(path, this._settings, {});
      this._takeStatus(answer.data, answer.at);
    } finally {
      this._generation += 1;
      this._changed.emit();
      void this._poll.refresh();
    }
  }

  /** Do something about a dataset while it is shown as busy, and ask for news. */
  private async _during(id: string, work: () => Promise<void>): Promise<void> {
    this._busy.add(id);
    this._failures.delete(id);
    this._generation += 1;
    this._changed.emit();
    try {
      await work();
    } catch (error) {
      throw asRequestError(error);
    } finally {
      this._busy.delete(id);
      this._generation += 1;
      this._changed.emit();
      void this._poll.refresh();
    }
  }

  private _mergeRequest(request: IRequest): void {
    const others = (this._requests ?? []).filter(one => one.id !== request.id);
    this._requests = [request, ...others].sort((a, b) => b.created.localeCompare(a.created));
  }

  /** Change a dataset's state, keep the refusal if it fails, and ask for the list again. */
  private async _change(id: string, action: string, body: object): Promise<void> {
    const path = `datasets/${encodeURIComponent(id)}/${action}`;
    await this._during(id, async () => {
      try {
        const answer = await ask<Partial<IDataset>>(path, this._settings, body);
        this._merge(id, answer.data);
      } catch (error) {
        this._failures.set(id, asRequestError(error));
        throw error;
      }
    });
  }

  private _merge(id: string, state: Partial<IDataset>): void {
    if (this._datasets !== null && state !== null && state.id === id) {
      this._datasets = this._datasets.map(old => (old.id === id ? { ...old, ...state } : old));
    }
  }

  /**
   * Ask for status and datasets at once. Rejects if the notebook server does not answer, so that the poll backs off;
   * it answers with an error of its own while only the broker is away.
   *
   * An answer is dropped where something was changed since the question: it may be older than the change.
   */
  private async _ask(): Promise<void> {
    const generation = this._generation;
    const [status, datasets, requests] = await Promise.allSettled([
      ask<IStatus>('status', this._settings),
      ask<{ datasets: IDataset[]; purposes?: ITerm[] }>('datasets', this._settings),
      ask<{ requests: IRequest[] }>('requests', this._settings)
    ]);
    if (this.isDisposed || generation !== this._generation) {
      return;
    }
    if (status.status === 'fulfilled') {
      this._takeStatus(status.value.data, status.value.at);
    } else {
      this._statusError = asRequestError(status.reason);
    }
    if (datasets.status === 'fulfilled') {
      this._takeDatasets(datasets.value.data.datasets ?? []);
      this._purposes = datasets.value.data.purposes ?? [];
    } else {
      this._datasetsError = asRequestError(datasets.reason);
    }
    // Where they cannot be had now, those that are known stay: what keeps them away is shown for the datasets.
    if (requests.status === 'fulfilled') {
      this._requests = requests.value.data.requests ?? [];
    }
    this._changed.emit();
    if (this._statusError !== null) {
      throw this._statusError;
    }
    this._hurry();
  }

  /** Ask again soon while the server is on its way to being proven, or the person to being logged in. */
  private _hurry(): void {
    const phase = this._status?.phase;
    clearTimeout(this._soon);
    const waiting = this._status?.login?.state === 'waiting';
    if (phase === 'starting' || phase === 'evidence' || waiting) {
      this._soon = setTimeout(() => void this._poll.refresh(), SOON);
    }
  }

  private _takeStatus(status: IStatus, at: Date | null): void {
    this._status = {
      ...status,
      sentences: status.sentences ?? [],
      devices: (status.devices ?? []).map(device => ({ ...device, claims: device.claims ?? [] }))
    };
    this._statusError = null;
    if (at !== null) {
      const skew = at.getTime() - Date.now();
      // The Date header has whole seconds, and the answer was under way for a while: small differences are none.
      this._skew = Math.abs(skew) < 5_000 ? 0 : skew;
    }
  }

  /** Take a new list; a refusal that was kept goes once the dataset's state has changed. */
  private _takeDatasets(datasets: IDataset[]): void {
    for (const dataset of datasets) {
      const before = this.dataset(dataset.id);
      if (before !== undefined && before.state !== dataset.state && dataset.state !== 'refused') {
        this._failures.delete(dataset.id);
      }
    }
    this._datasets = datasets;
    this._datasetsError = null;
  }

  private readonly _settings: ServerConnection.ISettings;
  private readonly _poll: Poll<void, unknown>;
  private readonly _changed = new Signal<this, void>(this);
  private readonly _busy = new Set<string>();
  private readonly _failures = new Map<string, RequestError>();
  private _status: IStatus | null = null;
  private _statusError: RequestError | null = null;
  private _datasets: readonly IDataset[] | null = null;
  private _datasetsError: RequestError | null = null;
  private _purposes: readonly ITerm[] = [];
  private _requests: readonly IRequest[] | null = null;
  private _releases: readonly IRelease[] | null = null;
  private _releasesError: RequestError | null = null;
  private _proving = false;
  private _proveError: RequestError | null = null;
  private _generation = 0;
  private _skew = 0;
  private _soon: ReturnType<typeof setTimeout> | undefined;
}

export namespace SealroomModel {
  export interface IOptions {
    /** Connection to the notebook server. */
    settings: ServerConnection.ISettings;
    /** When not to poll; default: while the page is hidden. */
    standby?: Poll.Standby;
  }
}

function asRequestError(error: unknown): RequestError {
  return error instanceof RequestError ? error : new RequestError(String(error), 0);
}
