import { describe, expect, test } from 'vitest'
import { defaultLoaderEntry, type LoaderEntry, parseLoaderEntry, sortLoaderEntries } from './loader-entries.ts'

test('an entry as systemd writes it', () => {
  const text = `# Boot Loader Specification type#1 entry
title      Debian GNU/Linux 12 (bookworm)
version    6.1.0-13-amd64
machine-id 0123456789abcdef0123456789abcdef
sort-key   debian
options    root=UUID=x ro
options    quiet
linux      /debian/6.1.0-13-amd64/linux
initrd     /ucode.img
initrd     /debian/6.1.0-13-amd64/initrd.img-6.1.0-13-amd64
`
  expect(parseLoaderEntry('debian-6.1.0-13+3.conf', text)).toEqual({
    id: 'debian-6.1.0-13',
    title: 'Debian GNU/Linux 12 (bookworm)',
    version: '6.1.0-13-amd64',
    sortKey: 'debian',
    kernel: '/debian/6.1.0-13-amd64/linux',
    initramfs: ['/ucode.img', '/debian/6.1.0-13-amd64/initrd.img-6.1.0-13-amd64'],
    commandLine: 'root=UUID=x ro quiet',
    isBad: false,
  })
  expect(parseLoaderEntry('a.conf', 'title Windows\nefi /EFI/x.efi\n'), 'no Linux').toBeUndefined()
})

const entry = (id: string, version: string, more: Partial<LoaderEntry> = {}): LoaderEntry => {
  return { id, title: id, version, sortKey: '', kernel: '/k', initramfs: [], commandLine: '', isBad: false, ...more }
}

describe('which one', () => {
  const entries = [
    entry('old', '6.1.0-9'),
    entry('new', '6.1.0-13'),
    entry('keyed', '1', { sortKey: 'a' }),
    entry('bad', '9', { sortKey: 'a', isBad: true }),
  ]
  test('in the order of a menu', () => {
    expect(sortLoaderEntries(entries).map(({ id }) => id)).toEqual(['keyed', 'new', 'old', 'bad'])
  })
  test.for([
    ['timeout 3\n', 'keyed'],
    ['default o*\n', 'old'],
    ['default ?e?.conf\n', 'new'],
    ['default *z\n', 'keyed'],
    ['default *\n', 'keyed'],
    [`default ${'*a'.repeat(100)}\n`, 'keyed'],
  ] as const)('%s', ([conf, id]) => expect(defaultLoaderEntry(entries, conf)?.id).toBe(id))
  test('none of none', () => expect(defaultLoaderEntry([], 'default x')).toBeUndefined())
})
