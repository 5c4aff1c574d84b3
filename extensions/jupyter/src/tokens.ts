// SPDX-License-Identifier: BSD-3-Clause
import { Token } from '@lumino/coreutils';
import type { ISignal } from '@lumino/signaling';
import type { IDataset, IPreviewItem, IStatus, RequestError } from './api';
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
}

export const ISealroomModel = new Token<ISealroomModel>(
  '@sealroom/lab:ISealroomModel',
  'What this notebook server can prove about itself, and the sealed datasets on offer.'
);
