// SPDX-License-Identifier: BSD-3-Clause
/** A dialog that stays open while its task runs, so that progress and refusals show where the person acted. */
import { Dialog } from '@jupyterlab/apputils';
import { ReactWidget } from '@jupyterlab/ui-components';
import { Signal } from '@lumino/signaling';
import { RequestError } from '../api';

/** State of a task, as the dialog's body shows it. */
export interface ITaskState {
  running: boolean;
  error: RequestError | null;
}

/** Body of a task dialog: renders the state, and does the task when the accept button is used. */
export abstract class TaskBody extends ReactWidget {
  constructor() {
    super();
    this.addClass('sealroom-Dialog');
  }

  /** Emitted when the state or the answer to `canRun` changed. */
  readonly stateChanged = new Signal<this, void>(this);

  /** Whether the task may be started now. */
  abstract canRun(): boolean;

  /** Do the task. Resolves to whether the dialog should close. */
  protected abstract task(): Promise<boolean>;

  protected abstract view(state: ITaskState): JSX.Element;

  get running(): boolean {
    return this._state.running;
  }

  /** Run the task; a failure becomes part of the state. */
  async run(): Promise<boolean> {
    if (this._state.running || !this.canRun()) {
      return false;
    }
    this.setState({ running: true, error: null });
    try {
      const close = await this.task();
      this.setState({ running: false, error: null });
      return close;
    } catch (reason) {
      const error = reason instanceof RequestError ? reason : new RequestError(String(reason), 0);
      this.setState({ running: false, error });
      return false;
    }
  }

  /** Render again after a change that the body made itself. */
  protected touched(): void {
    if (!this.isDisposed) {
      this.stateChanged.emit();
      this.update();
    }
  }

  protected override render(): JSX.Element {
    return this.view(this._state);
  }

  private setState(state: ITaskState): void {
    this._state = state;
    this.touched();
  }

  private _state: ITaskState = { running: false, error: null };
}

/** The dialog around a `TaskBody`: its accept button runs the task. */
export class TaskDialog extends Dialog<void> {
  constructor(options: TaskDialog.IOptions) {
    const { body, title, cancel, accept } = options;
    super({
      title,
      body,
      buttons: [Dialog.cancelButton({ label: cancel }), Dialog.okButton({ label: accept })],
      focusNodeSelector: options.focus
    });
    this._task = body;
    this.addClass('sealroom-TaskDialog');
    const [cancelNode, acceptNode] = Array.from(
      this.node.querySelectorAll<HTMLButtonElement>('.jp-Dialog-footer .jp-Dialog-button')
    );
    cancelNode.dataset.testid = `${options.testid}-close`;
    acceptNode.dataset.testid = `${options.testid}-confirm`;
    this.node.dataset.testid = `${options.testid}-dialog`;
    this._accept = acceptNode;
    body.stateChanged.connect(this._sync, this);
    this._sync();
  }

  /** The accept button runs the task instead of closing the dialog. */
  override resolve(index?: number): void {
    if (index === 0) {
      super.resolve(index);
      return;
    }
    void this._task.run().then(close => {
      if (close && !this.isDisposed) {
        super.resolve(1);
      }
    });
  }

  override handleEvent(event: Event): void {
    if (event.type === 'keydown' && (event as KeyboardEvent).key === 'Enter') {
      // The dialog takes every Enter for its default button; some parts of the body have a use of their own for it.
      const own = (event.target as HTMLElement).closest?.(
        '.sealroom-Dialog :is(button, a, summary, textarea, select)'
      );
      if (own) {
        return;
      }
    }
    super.handleEvent(event);
    if (event.type === 'input') {
      this._sync();
    }
  }

  private _sync(): void {
    this._accept.disabled = this._task.running || !this._task.canRun();
  }

  private readonly _task: TaskBody;
  private readonly _accept: HTMLButtonElement;
}

export namespace TaskDialog {
  export interface IOptions {
    title: string;
    body: TaskBody;
    cancel: string;
    accept: string;
    /** Start of the `data-testid` of the dialog and its buttons. */
    testid: string;
    /** Selector of the element inside the body that gets the focus. */
    focus?: string;
  }
}
