// SPDX-License-Identifier: BSD-3-Clause
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  evidenceName,
  formatRelative,
  formatSize,
  isNonce,
  randomNonce,
  snippet,
  verifyCommand
} from '../format';
import { NOW } from './fixtures';

test('sizes have a decimal unit and at most one digit after the point', () => {
  const sizes: [number, string][] = [
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1 kB'],
    [1_728_000, '1.7 MB'],
    [999_960, '1 MB'],
    [81_400_000_000, '81.4 GB'],
    [1.2e12, '1.2 TB'],
    [5e18, '5,000 PB']
  ];
  for (const [bytes, text] of sizes) {
    assert.equal(formatSize(bytes, 'en'), text);
  }
});

test('relative times', () => {
  const after = (seconds: number): Date => new Date(NOW.getTime() + seconds * 1000);
  assert.equal(formatRelative(after(-20), NOW, 'en'), 'now');
  assert.equal(formatRelative(after(-119), NOW, 'en'), '1 minute ago');
  assert.equal(formatRelative(after(-7_200), NOW, 'en'), '2 hours ago');
  assert.equal(formatRelative(after(86_400 * 3), NOW, 'en'), 'in 3 days');
});

test('a random nonce is a nonce, and another one each time', () => {
  const nonce = randomNonce();
  assert.match(nonce, /^[0-9a-f]{64}$/);
  assert.ok(isNonce(nonce));
  assert.notEqual(nonce, randomNonce());
});

test('nonces of 16 to 64 bytes in hex are accepted', () => {
  assert.ok(isNonce('aB'.repeat(16)));
  assert.ok(isNonce('00'.repeat(64)));
});

test('not a nonce: too short', () => assert.ok(!isNonce('00'.repeat(15))));
test('not a nonce: too long', () => assert.ok(!isNonce('00'.repeat(65))));
test('not a nonce: half a byte', () => assert.ok(!isNonce('00'.repeat(16) + '0')));
test('not a nonce: not hex', () => assert.ok(!isNonce('0g'.repeat(16))));
test('not a nonce: a second line', () => assert.ok(!isNonce('00'.repeat(16) + '\n')));

test('the command names the file, the root and the nonce', () => {
  const file = evidenceName('AB'.repeat(16), NOW);
  assert.equal(file, 'sealroom-2026-11-24-abababab.evidence.json');
  assert.equal(
    verifyCommand(file, 'AB'.repeat(16), 'ark.pem'),
    `sealroom verify ${file} --root ark.pem --nonce ${'ab'.repeat(16)}`
  );
});

test('the command trusts no development root where there is none', () => {
  assert.doesNotMatch(verifyCommand('f.json', '00', null), /--root/);
});

test('a root with blanks is quoted for the shell', () => {
  assert.match(verifyCommand('f', '00', "my root's.pem"), /--root 'my root'\\''s\.pem'/);
});

test('the snippet opens the first file, or unlocks where no name is known', () => {
  assert.match(snippet('heartbeats', ['ecg.npy']), /sealroom\.open\("heartbeats\/ecg\.npy"\)/);
  assert.match(snippet('heartbeats', undefined), /sealroom\.unlock\("heartbeats"\)/);
  assert.match(snippet('a"b', []), /unlock\("a\\"b"\)/);
});
