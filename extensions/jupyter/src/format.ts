// SPDX-License-Identifier: BSD-3-Clause
/** Sizes, times, nonces and commands as people read them. Pure: no network, no DOM beyond the page's language. */

const UNITS = ['kB', 'MB', 'GB', 'TB', 'PB'];

/** Size in bytes with a decimal unit: `12.3 MB`. */
export function formatSize(bytes: number, language?: string): string {
  let value = bytes;
  let unit = 'B';
  for (const next of UNITS) {
    if (value < 999.5) {
      break;
    }
    value /= 1000;
    unit = next;
  }
  const digits = unit === 'B' || value >= 99.95 ? 0 : 1;
  return `${new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value)} ${unit}`;
}

/** Date and time, medium length: `24 Nov 2026, 10:15`. */
export function formatTime(value: string | Date, language?: string): string {
  const options: Intl.DateTimeFormatOptions = { dateStyle: 'medium', timeStyle: 'short' };
  return new Intl.DateTimeFormat(language, options).format(new Date(value));
}

/** Time of day alone where the day is `now`'s, else date and time. */
export function formatShortTime(value: string | Date, now: Date, language?: string): string {
  const date = new Date(value);
  if (date.toDateString() !== now.toDateString()) {
    return formatTime(date, language);
  }
  return new Intl.DateTimeFormat(language, { timeStyle: 'short' }).format(date);
}

const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [
  ['day', 86_400],
  ['hour', 3_600],
  ['minute', 60]
];

/** Time relative to `now`: `2 minutes ago`, `in 3 days`, and `now` below a minute. */
export function formatRelative(value: string | Date, now: Date, language?: string): string {
  const seconds = (new Date(value).getTime() - now.getTime()) / 1000;
  const formatter = new Intl.RelativeTimeFormat(language, { numeric: 'auto' });
  for (const [unit, length] of STEPS) {
    if (Math.abs(seconds) >= length) {
      return formatter.format(Math.trunc(seconds / length), unit);
    }
  }
  return formatter.format(0, 'second');
}

/** A fresh nonce of `length` random bytes, in hex. */
export function randomNonce(length = 32): string {
  const bytes = crypto.getRandomValues(new Uint8Array(length));
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
}

/** 16 to 64 bytes in hex; also the `pattern` of the input. */
export const NONCE_PATTERN = '(?:[0-9a-fA-F]{2}){16,64}';

export function isNonce(text: string): boolean {
  return new RegExp(`^${NONCE_PATTERN}$`).test(text);
}

/** File name for saved evidence: the first digits of the nonce tell files apart. */
export function evidenceName(nonce: string, at: Date): string {
  const day = at.toISOString().slice(0, 10);
  return `sealroom-${day}-${nonce.slice(0, 8).toLowerCase()}.evidence.json`;
}

/** The command that checks saved evidence on another machine. */
export function verifyCommand(file: string, nonce: string, root: string | null): string {
  const trust = root === null ? '' : ` --root ${shellWord(root)}`;
  return `sealroom verify ${shellWord(file)}${trust} --nonce ${nonce.toLowerCase()}`;
}

function shellWord(text: string): string {
  return /^[A-Za-z0-9_.\/:@%+=-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`;
}

/** Python that reads an unlocked dataset. */
export function snippet(id: string, names: readonly string[] | undefined): string {
  if (names !== undefined && names.length > 0) {
    return `import sealroom\nfile = sealroom.open(${pythonString(`${id}/${names[0]}`)})`;
  }
  return `import sealroom\nds = sealroom.unlock(${pythonString(id)})\nds.files`;
}

function pythonString(text: string): string {
  return JSON.stringify(text);
}

/** Characters of a reason as the broker counts them: code points, not UTF-16 units. */
export function countCharacters(text: string): number {
  return Array.from(text).length;
}

/** Most characters of a reason. */
export const MAX_REASON = 2000;

/** The last second of a day (`2027-03-31`) where the person is, as ISO 8601; `null` for no day. */
export function endOfDay(day: string): string | null {
  const match = /^(\d{4})-(\d{2})-(\d{2})$/.exec(day);
  if (match === null) {
    return null;
  }
  const [year, month, date] = match.slice(1).map(Number);
  const end = new Date(year, month - 1, date, 23, 59, 59);
  // A day that is in no calendar has become another one.
  return end.getMonth() === month - 1 ? end.toISOString() : null;
}

/** A day as `<input type="date">` takes it. */
export function inputDay(at: Date): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** The command that checks a proof with the log's key, which comes from elsewhere. */
export function proofCommand(file: string): string {
  return `sealroom audit check-proof ${shellWord(file)} --key audit.pub`;
}

/** Host of an issuer, which people know it by; the whole text where it is no address. */
export function issuerHost(issuer: string): string {
  try {
    return new URL(issuer).host || issuer;
  } catch {
    return issuer;
  }
}
