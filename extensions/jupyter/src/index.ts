// SPDX-License-Identifier: BSD-3-Clause
/** The lab extension's plugins: model, status bar item, panel with commands, notifications. */
import { ILayoutRestorer } from '@jupyterlab/application';
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { ServerConnection } from '@jupyterlab/services';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { answers, isRefused, losses, see } from './alerts';
import { showAskDialog } from './components/ask';
import { showCodeDialog } from './components/login';
import { showUnlockDialog } from './components/unlock';
import { showVerifyDialog } from './components/verify';
import { showWhyDialog } from './components/why';
import { sealroomIcon } from './icons';
import { SealroomModel } from './model';
import { SealroomPanel } from './panel';
import { StatusItem } from './statusitem';
import { ISealroomModel } from './tokens';

export { ISealroomModel } from './tokens';

const DOMAIN = 'sealroom';

export namespace CommandIDs {
  export const openPanel = 'sealroom:open-panel';
  export const proveAgain = 'sealroom:prove-again';
  export const verifyYourself = 'sealroom:verify-yourself';
}

const modelPlugin: JupyterFrontEndPlugin<ISealroomModel> = {
  id: '@sealroom/lab:plugin',
  description: 'Keeps the state of this notebook server and of the sealed datasets.',
  autoStart: true,
  provides: ISealroomModel,
  optional: [ISettingRegistry, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    registry: ISettingRegistry | null,
    translator: ITranslator | null
  ): ISealroomModel => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const settings = app.serviceManager?.serverSettings ?? ServerConnection.makeSettings();
    const model = new SealroomModel({ settings });
    let notify = true;
    let notifyAnswers = true;
    let seen = see(model);
    let refusal = '';
    model.changed.connect(() => {
      const alerts = [
        ...(notify ? losses(seen, model, trans) : []),
        ...(notifyAnswers ? answers(seen, model, trans) : [])
      ];
      seen = see(model);
      if (refusal && !isRefused(seen.shown)) {
        Notification.dismiss(refusal);
        refusal = '';
      }
      for (const { kind, message } of alerts) {
        const id = Notification.emit(message, kind, {
          autoClose: kind === 'error' ? false : 20_000
        });
        refusal = kind === 'error' ? id : refusal;
      }
    });
    const apply = (values: ISettingRegistry.ISettings): void => {
      model.interval = values.composite.pollInterval as number;
      notify = values.composite.notifyOnLoss as boolean;
      notifyAnswers = values.composite.notifyOnAnswer as boolean;
    };
    void registry
      ?.load(modelPlugin.id)
      .then(values => {
        apply(values);
        values.changed.connect(apply);
      })
      .catch(reason => console.warn('Sealroom goes on with its default settings.', reason));
    model.start();
    return model;
  }
};

const panelPlugin: JupyterFrontEndPlugin<void> = {
  id: '@sealroom/lab:panel',
  description: 'Adds the Sealroom side panel and its commands.',
  autoStart: true,
  requires: [ISealroomModel],
  optional: [ITranslator, ICommandPalette, ILayoutRestorer],
  activate: (
    app: JupyterFrontEnd,
    model: ISealroomModel,
    translator: ITranslator | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null
  ): void => {
    const known = translator ?? nullTranslator;
    const trans = known.load(DOMAIN);
    const { commands, shell } = app;
    const panel = new SealroomPanel({
      model,
      translator: known,
      trans,
      onVerify: () => void commands.execute(CommandIDs.verifyYourself),
      onUnlock: id => void showUnlockDialog(model, id, trans),
      onAsk: id => void showAskDialog(model, id, trans),
      onWhy: id => void showWhyDialog(model, id, trans),
      onLogInWithCode: () => void showCodeDialog(model, trans)
    });

    commands.addCommand(CommandIDs.openPanel, {
      label: trans.__('Open the Sealroom Panel'),
      caption: trans.__('Show what this server can prove, and the sealed datasets'),
      icon: sealroomIcon,
      execute: () => shell.activateById(panel.id)
    });
    commands.addCommand(CommandIDs.proveAgain, {
      label: trans.__('Prove This Server Again'),
      caption: trans.__('Gather fresh evidence and have the broker check it'),
      execute: () => {
        shell.activateById(panel.id);
        // A refusal shows in the panel.
        return model.prove().catch(() => undefined);
      }
    });
    commands.addCommand(CommandIDs.verifyYourself, {
      label: trans.__('Verify This Server Yourself…'),
      caption: trans.__('Save evidence over a number of your own, to check it elsewhere'),
      execute: () => showVerifyDialog(model, trans)
    });
    for (const command of Object.values(CommandIDs)) {
      palette?.addItem({ command, category: trans.__('Sealroom') });
    }

    shell.add(panel, 'right', { rank: 90 });
    restorer?.add(panel, panel.id);
  }
};

const statusPlugin: JupyterFrontEndPlugin<void> = {
  id: '@sealroom/lab:status',
  description: 'Shows in the status bar whether this server is attested.',
  autoStart: true,
  requires: [ISealroomModel, IStatusBar],
  optional: [ITranslator],
  activate: (
    app: JupyterFrontEnd,
    model: ISealroomModel,
    statusBar: IStatusBar,
    translator: ITranslator | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const item = new StatusItem(
      model,
      trans,
      () => void app.commands.execute(CommandIDs.openPanel)
    );
    statusBar.registerStatusItem(statusPlugin.id, {
      item,
      align: 'left',
      rank: 0,
      priority: 100
    });
  }
};

export default [modelPlugin, panelPlugin, statusPlugin];
