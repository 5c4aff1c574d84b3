// SPDX-License-Identifier: BSD-3-Clause
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, SidePanel, UseSignal } from '@jupyterlab/ui-components';
import type { ITranslator } from '@jupyterlab/translation';
import { MessageLoop } from '@lumino/messaging';
import type { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import type { AccordionPanel } from '@lumino/widgets';
import * as React from 'react';
import { Datasets } from './components/datasets';
import { Login } from './components/login';
import { Releases } from './components/releases';
import { Server } from './components/server';
import { Summary } from './components/summary';
import { sealroomIcon } from './icons';
import type { ISealroomModel } from './tokens';

/** Room for this server, the datasets and the releases, relative to each other. */
const SIZES = [2, 3, 2];

/** The side panel: what this means, what this server proved, and the datasets. */
export class SealroomPanel extends SidePanel {
  constructor(options: SealroomPanel.IOptions) {
    super({ translator: options.translator });
    const { model, trans } = options;
    this.id = 'sealroom-panel';
    this.addClass('sealroom-Panel');
    this.title.icon = sealroomIcon;
    this.title.caption = trans.__('Sealroom');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('Sealroom'));
    this.node.dataset.testid = 'sealroom-panel';

    this.header.addWidget(
      live(model, () => (
        <>
          <Summary model={model} trans={trans} />
          <Login model={model} trans={trans} onLogInWithCode={options.onLogInWithCode} />
        </>
      ))
    );
    const server = live(model, () => (
      <Server model={model} trans={trans} onVerify={options.onVerify} />
    ));
    server.title.label = trans.__('This server');
    const datasets = live(model, () => (
      <Datasets
        model={model}
        trans={trans}
        onUnlock={options.onUnlock}
        onAsk={options.onAsk}
        onWhy={options.onWhy}
      />
    ));
    datasets.title.label = trans.__('Datasets');
    const releases = live(model, () => <Releases model={model} trans={trans} />);
    releases.title.label = trans.__('My releases');
    for (const section of [server, datasets, releases]) {
      section.addClass('sealroom-Scroll');
      this.addWidget(section);
    }
    const accordion = this.content as AccordionPanel;
    accordion.setRelativeSizes(SIZES);
    // Looked at now and then: the datasets need the room.
    accordion.collapse(2);
    const first = (_: AccordionPanel, index: number): void => {
      if (index === 2) {
        accordion.expansionToggled.disconnect(first);
        // Collapsed before it was ever shown, it has no earlier size to take, and would get none.
        accordion.setRelativeSizes(SIZES);
      }
    };
    accordion.expansionToggled.connect(first);
  }

  protected override onAfterAttach(msg: Message): void {
    super.onAfterAttach(msg);
    // Lumino does not see that the summary has grown or shrunk with its text.
    this._observer = new ResizeObserver(() => {
      MessageLoop.postMessage(this.content, Widget.ResizeMessage.UnknownSize);
    });
    this._observer.observe(this.header.node);
  }

  protected override onBeforeDetach(msg: Message): void {
    this._observer?.disconnect();
    this._observer = null;
    super.onBeforeDetach(msg);
  }

  private _observer: ResizeObserver | null = null;
}

export namespace SealroomPanel {
  export interface IOptions {
    model: ISealroomModel;
    translator: ITranslator;
    trans: TranslationBundle;
    onVerify: () => void;
    onUnlock: (id: string) => void;
    onAsk: (id: string) => void;
    onWhy: (id: string) => void;
    onLogInWithCode: () => void;
  }
}

/** A widget that renders again whenever the model changed. */
function live(model: ISealroomModel, view: () => JSX.Element): ReactWidget {
  return ReactWidget.create(<UseSignal signal={model.changed}>{view}</UseSignal>);
}
