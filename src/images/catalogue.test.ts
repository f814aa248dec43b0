import { expect, test } from 'vitest'
import { formatReference, isImageName, nameFromSource, parseReference } from './catalogue.ts'
import { recogniseFormat } from './foreign.ts'

test.each([
  ['/srv/Debian 12.qcow2.xz', 'debian-12'],
  ['https://images.lab/a/noble-server-amd64.img?token=x#y', 'noble-server-amd64'],
  ['disk.raw.zst', 'disk'],
  ['../..', undefined],
  ['@@@', undefined],
])('%s is called %s', (source, name) => expect(nameFromSource(source)).toBe(name))

test('a reference is a name or a name and a version, and nothing that leads out of a directory', () => {
  for (const text of ['debian', 'debian@1', 'a.b_c-d@123']) {
    const reference = parseReference(text)
    expect(reference === undefined ? undefined : formatReference(reference)).toBe(text)
  }
  for (const text of ['', '@1', 'a@', 'a@0', 'a@x', 'a@1@2', '../a', 'a/b', '.a', 'a.', 'A', 'a b', 'a'.repeat(65)]) {
    expect(parseReference(text), text).toBeUndefined()
  }
  expect(isImageName('golden-3.1')).toBe(true)
})

test('formats are known by what they begin with, however little there is', () => {
  const head = (text: string): Uint8Array => new Uint8Array(Buffer.concat([Buffer.from(text, 'latin1')]))
  expect(recogniseFormat(head('QFI\xfb\0\0\0\x03'))).toBe('qcow2')
  expect(recogniseFormat(head('KDMV'))).toBe('vmdk')
  expect(recogniseFormat(head('# Disk DescriptorFile\nversion=1'))).toBe('vmdkDescriptor')
  expect(recogniseFormat(head('vhdxfile'))).toBe('vhdx')
  expect(recogniseFormat(head(`${'\0'.repeat(64)}\x7f\x10\xda\xbe`))).toBe('vdi')
  expect(recogniseFormat(head(''))).toBe('raw')
  expect(recogniseFormat(head('\xeb\x63'))).toBe('raw')
})
