// SPDX-License-Identifier: BSD-3-Clause
// Draws a dataset's card. Everything that comes from the kernel is set as text, never as HTML.

// Seconds after which a state that nobody confirmed is called old; the kernel confirms every ten.
const OLD = 30;

const ICONS = {
  green: 'M8 1l6 2v5c0 4-2.6 6.2-6 7.5C4.6 14.2 2 12 2 8V3zm3.2 4.3L7 9.5 5 7.5l-1 1 3 3 5.2-5.2z',
  amber: 'M8 1.5l7 12.5H1zm-.8 4.5v4h1.6V6zm0 5v1.6h1.6V11z',
  red: 'M8 1a7 7 0 100 14A7 7 0 008 1zM5 4l3 3 3-3 1 1-3 3 3 3-1 1-3-3-3 3-1-1 3-3-3-3z',
  blue: 'M4 7V5a4 4 0 017.7-1.5l-1.5.7A2.3 2.3 0 005.7 5v2H13v8H3V7z',
  grey: 'M8 1a7 7 0 100 14A7 7 0 008 1zm-.8 9.5h1.6V12H7.2zm.1-1.2c0-2.3 1.9-2.2 1.9-3.7 0-1.5-2.3-1.5-2.4.1H5.2C5.2 2.7 10.8 2.8 10.8 5.6c0 2.1-1.9 2.2-1.9 3.7z'
};

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) {
    made.className = className;
  }
  if (text) {
    made.textContent = text;
  }
  return made;
}

function icon(tone) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('class', 'sealroom-widget-icon');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', ICONS[tone] || ICONS.grey);
  path.setAttribute('fill-rule', 'evenodd');
  svg.append(path);
  return svg;
}

function chip(value, part) {
  const made = element('span', 'sealroom-widget-chip');
  made.dataset.tone = value.tone in ICONS ? value.tone : 'grey';
  made.dataset.part = part;
  made.append(icon(value.tone), element('span', '', value.label));
  return made;
}

function time(iso) {
  const made = element('time', '', '');
  const at = new Date(iso);
  made.dateTime = iso;
  made.textContent = isNaN(at.getTime())
    ? iso
    : new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' }).format(at);
  return made;
}

function row(list, label, value) {
  if (!value) {
    return;
  }
  const text = element('dd');
  text.append(value);
  list.append(element('dt', '', label), text);
}

function draw(root, card, at, old) {
  const head = element('div', 'sealroom-widget-head');
  head.append(element('strong', 'sealroom-widget-title', card.title), chip(card.state, 'state'));
  const facts = element('dl', 'sealroom-widget-facts');
  row(facts, 'Owner', card.owner);
  row(facts, 'Size', card.extent);
  row(facts, 'Until', card.until && time(card.until));
  row(facts, 'Purpose', card.purpose);
  row(facts, 'Results', card.results);
  row(facts, 'This server', chip(card.tier, 'tier'));
  row(facts, 'Whom to ask', card.ask);
  const parts = [head];
  for (const sentence of card.reasons || []) {
    parts.push(element('p', 'sealroom-widget-reason', sentence));
  }
  if (card.problem) {
    parts.push(element('p', 'sealroom-widget-reason', card.problem));
  }
  parts.push(facts);
  if ((card.meaning || []).length > 0) {
    parts.push(element('p', 'sealroom-widget-meaning', card.meaning.join(' ')));
  }
  if (card.code) {
    parts.push(element('code', 'sealroom-widget-code', card.code));
  }
  const note = element('p', 'sealroom-widget-note');
  if (old) {
    note.append('This was so at ', time(at), '. Run the cell again to see how it is now.');
  }
  parts.push(note);
  root.dataset.old = old ? 'true' : 'false';
  root.replaceChildren(...parts);
}

function render({ model, el }) {
  const root = element('section', 'sealroom-widget');
  root.setAttribute('role', 'group');
  const live = element('p', 'sealroom-widget-hidden');
  live.setAttribute('aria-live', 'polite');
  el.append(root, live);
  let said = '';
  let heard = Date.parse(model.get('at')) || 0;

  const update = () => {
    const card = model.get('card');
    if (!card || !card.title) {
      return;
    }
    root.setAttribute('aria-label', `Dataset ${card.title}`);
    draw(root, card, model.get('at'), Date.now() - heard > OLD * 1000);
    const now = `${card.title}: ${card.state.label}. ${(card.reasons || []).join(' ')}`;
    // A screen reader hears changes, not the first state: that is read in its place.
    if (said && said !== now) {
      live.textContent = now;
    }
    said = now;
  };
  const confirmed = () => {
    heard = Date.now();
    update();
  };

  model.on('change:card', confirmed);
  model.on('change:at', confirmed);
  const timer = setInterval(update, 5000);
  update();
  tell(model, 'shown');
  return () => {
    clearInterval(timer);
    model.off('change:card', confirmed);
    model.off('change:at', confirmed);
    tell(model, 'gone');
  };
}

function tell(model, kind) {
  try {
    model.send({ kind });
  } catch {
    // There is no kernel any more: the card is shown as old after a while.
  }
}

export default { render };
