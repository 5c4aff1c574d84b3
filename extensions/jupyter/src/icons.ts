// SPDX-License-Identifier: BSD-3-Clause
/** Own icons, drawn on a 24-unit grid with strokes in the colour of the text around them. */
import { LabIcon } from '@jupyterlab/ui-components';
import type { DatasetShown, Shown } from './tiers';
import type { Outcome } from './api';

function icon(name: string, body: string, attributes = 'stroke="currentColor"'): LabIcon {
  const svgstr =
    '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">' +
    `<g fill="none" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" ${attributes}>` +
    `${body}</g></svg>`;
  return new LabIcon({ name: `sealroom:${name}`, svgstr });
}

// A seal of eight lobes. Not a shield: the notebook's "trusted" mark in Jupyter's status bar is one.
const SEAL =
  '<path d="M15.3 4.1a3.7 3.7 0 0 1 4.6 4.6 3.7 3.7 0 0 1 0 6.6 3.7 3.7 0 0 1-4.6 4.6 3.7 3.7 0 0 1-6.6 0 3.7 3.7 0 0 1-4.6-4.6 3.7 3.7 0 0 1 0-6.6 3.7 3.7 0 0 1 4.6-4.6 3.7 3.7 0 0 1 6.6 0z"/>';
const CIRCLE = '<circle cx="12" cy="12" r="9"/>';
const BODY = '<rect x="4.5" y="10.5" width="15" height="10" rx="2"/>';

/** The product's icon, a seal with a keyhole: for the side bar, in the side bar's own colour. */
export const sealroomIcon = icon(
  'sealroom',
  SEAL + '<circle cx="12" cy="10.8" r="2.1"/><path d="M12 13v2.8"/>',
  'class="jp-icon-selectable sealroom-SideIcon" stroke="#616161"'
);

const attested = icon('attested', SEAL + '<path d="m8.5 12.2 2.5 2.5 4.6-5"/>');
const attention = icon('attention', SEAL + '<path d="M12 8v4.6m0 3.2v.1"/>');
const simulated = icon(
  'simulated',
  '<path d="M9.5 3h5M10.5 3v6.2L4.9 18.4A1.8 1.8 0 0 0 6.4 21h11.2a1.8 1.8 0 0 0 1.5-2.6L13.5 9.2V3"/><path d="M7.6 15h8.8"/>'
);
const unproven = icon('unproven', SEAL + '<path d="m9.3 9.3 5.4 5.4m0-5.4-5.4 5.4"/>');
const checking = icon('checking', CIRCLE + '<path d="M12 7v5.2l3.2 2"/>');
const unreachable = icon(
  'unreachable',
  '<path d="M7.5 18.5A4.5 4.5 0 0 1 6.6 9.6M10 6.3a6 6 0 0 1 8 4.9 3.8 3.8 0 0 1 1.6 6.5M3.5 3.5l17 17M7.5 18.5h9"/>'
);

const locked = icon('locked', BODY + '<path d="M8 10.5V7.2a4 4 0 0 1 8 0v3.3"/>');
const unlocked = icon('unlocked', BODY + '<path d="M8 10.5V7.2a4 4 0 0 1 7.6-1.7"/>');
const notGranted = icon('not-granted', CIRCLE + '<path d="M7.5 12h9"/>');
const withdrawn = icon(
  'withdrawn',
  '<path d="M8.5 13.5 4 9l4.5-4.5"/><path d="M4 9h10a5.5 5.5 0 0 1 0 11h-4"/>'
);
const absent = icon(
  'absent',
  '<ellipse cx="12" cy="6" rx="7.5" ry="3"/><path d="M4.5 6v12c0 1.7 3.4 3 7.5 3M19.5 6v5M4.5 12c0 1.7 3.4 3 7.5 3M16 16l4.5 4.5m0-4.5L16 20.5"/>'
);

const passed = icon('passed', '<path d="m5 12.5 4.6 4.6L19.4 7.2"/>');
const failed = icon('failed', '<path d="m6 6 12 12m0-12L6 18"/>');
const notChecked = icon('not-checked', '<path d="M6 12h12"/>');

export const processorIcon = icon(
  'processor',
  '<rect x="6" y="6" width="12" height="12" rx="1.5"/><rect x="10" y="10" width="4" height="4"/><path d="M9.5 2.8V6m5-3.2V6m-5 12v3.2m5-3.2v3.2M2.8 9.5H6m-3.2 5H6m12-5h3.2M18 14.5h3.2"/>'
);

export function iconFor(shown: Shown): LabIcon {
  switch (shown) {
    case 'affirming':
      return attested;
    case 'warning':
      return attention;
    case 'simulated':
      return simulated;
    case 'checking':
      return checking;
    case 'unreachable':
    case 'unknown':
      return unreachable;
    default:
      return unproven;
  }
}

export function datasetIcon(shown: DatasetShown): LabIcon {
  switch (shown) {
    case 'locked':
      return locked;
    case 'unlocked':
      return unlocked;
    case 'not_granted':
      return notGranted;
    case 'expired':
      return checking;
    case 'withdrawn':
      return withdrawn;
    case 'absent':
      return absent;
    default:
      return unproven;
  }
}

export function outcomeIcon(outcome: Outcome): LabIcon {
  switch (outcome) {
    case 'passed':
      return passed;
    case 'failed':
      return failed;
    default:
      return notChecked;
  }
}
