/** Goal: an initramfs is what cpio reads. Method: cpio lists it. */
import { execFileSync } from 'node:child_process'
import { gunzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { packInitramfs } from '../../../lab/initramfs.ts'

const bytes = new TextEncoder().encode('#!/bin/sh\n')
const archive = packInitramfs([
  { kind: 'file', path: 'usr/bin/start', content: bytes, executable: true },
  { kind: 'link', path: 'init', target: 'usr/bin/start' },
  { kind: 'file', path: 'etc/name', content: new Uint8Array(0), executable: false },
])

test('cpio lists every entry, folders before what is in them', () => {
  const listed = execFileSync('cpio', ['-itv', '--quiet'], { input: gunzipSync(archive), encoding: 'utf8' })
  const words = listed.split('\n').map((line) => line.split(/\s+/))
  expect(words.map((line) => line[0])).toEqual([
    ...['drwxr-xr-x', 'drwxr-xr-x', '-rwxr-xr-x', 'lrwxrwxrwx', 'drwxr-xr-x', '-rw-r--r--', ''],
  ])
  expect(listed).toContain('init -> usr/bin/start')
})

test('the same entries give the same bytes', () => {
  const again = packInitramfs([
    { kind: 'file', path: 'usr/bin/start', content: bytes, executable: true },
    { kind: 'link', path: 'init', target: 'usr/bin/start' },
    { kind: 'file', path: 'etc/name', content: new Uint8Array(0), executable: false },
  ])
  expect(again).toEqual(archive)
})
