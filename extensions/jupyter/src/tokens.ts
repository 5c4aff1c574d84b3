// SPDX-License-Identifier: BSD-3-Clause
import { Token } from '@lumino/coreutils';
import type { ISignal } from '@lumino/signaling';
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
  ITerm,
  RequestError
} from './api';
import type { Shown } from './tiers';

/** State of this notebook server and of the datasets on offer, kept fresh while the page is visible. */
export interface ISealroomModel {
  /** Last status that came, or `null` before the first. Use `shown` to decide what to display. */
  readonly status: IStatus | null;
  /** Why the last question for the status failed. */
  readonly statusError: RequestError | null;
  /** Datasets on offer, or `null` before the first list. */
  readonly datasets: readonly IDataset[] | null;
  /** Why the last question for the datasets failed. */
  readonly datasetsError: RequestError | null;
  /** Every purpose that people may ask for, whatever a dataset's terms name. */
  readonly purposes: readonly ITerm[];
  /** The person's requests for access, the newest first, or `null` before the first list. */
  readonly requests: readonly IRequest[] | null;
  /** What was released to the person, the newest first, or `null` before it was asked for. */
  readonly releases: readonly IRelease[] | null;
  /** Why the last question for the releases failed. */
  readonly releasesError: RequestError | null;
  /** What to display for the status now; never `affirming` unless everything was. */
  readonly shown: Shown;
  /** Whether a fresh proof that was asked for is under way. */
  readonly proving: boolean;
  /** Why the last proof that was asked for failed. */
  readonly proveError: RequestError | null;
  /** Emitted after every change, and after every poll so that relative times stay right. */
  readonly changed: ISignal<ISealroomModel, void>;

  /** The notebook server's time: results expire by its clock, not the browser's. */
  now(): Date;
  /** Dataset with this id, if it is on offer. */
  dataset(id: string): IDataset | undefined;
  /** Whether a call for this dataset is under way. */
  isBusy(id: string): boolean;
  /** Why the last call for this dataset failed. */
  failure(id: string): RequestError | null;
  /** Ask for status and datasets now. */
  refresh(): Promise<void>;
  /** Make the server prove itself again. Rejects with a RequestError. */
  prove(): Promise<void>;
  /** Evidence about this server over the caller's nonce (hex), as the text of a file. */
  evidence(nonce: string): Promise<string>;
  /** What a request for this dataset's keys would send. */
  preview(id: string): Promise<readonly IPreviewItem[]>;
  /** Unlock a dataset for a purpose. Rejects with a RequestError. */
  unlock(id: string, purpose: string): Promise<void>;
  /** Drop a dataset's keys. Rejects with a RequestError. */
  lock(id: string): Promise<void>;
  /** The newest request for a dataset that was not taken back. */
  request(dataset: string): IRequest | undefined;
  /** What the broker would decide now; an empty purpose stands for any. */
  explain(id: string, purpose: string): Promise<IExplanation>;
  /** What the owner sees of a request for access. */
  askPreview(id: string): Promise<readonly IPreviewItem[]>;
  /** Ask the owner for access. Rejects with a RequestError. */
  askForAccess(id: string, words: IAsk): Promise<void>;
  /** Take back a request. A failure is kept as the dataset's, and rejects. */
  takeBack(request: IRequest): Promise<void>;
  /** Ask for the list of releases. */
  loadReleases(): Promise<void>;
  /** The proof of a release, as a file. */
  proof(index: number): Promise<IFile>;
  /** Begin a login in the browser; resolves to the provider's page. */
  logInInBrowser(origin: string): Promise<string>;
  /** Begin a login with a link and a code. */
  logInWithCode(): Promise<IDeviceCode>;
  /** Give up a login that was begun. */
  cancelLogin(): Promise<void>;
  /** Forget the person: their login and every dataset's keys. */
  logOut(): Promise<void>;
}

export const ISealroomModel = new Token<ISealroomModel>(
  '@sealroom/lab:ISealroomModel',
  'What this notebook server can prove about itself, and the sealed datasets on offer.'
);
