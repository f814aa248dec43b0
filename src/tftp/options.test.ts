import { expect, test } from 'vitest'
import { defaultLimits } from './limits.ts'
import { normalName, printableName } from './name.ts'
import { toNetascii } from './netascii.ts'
import { type Agreement, agree } from './options.ts'

const agreed = (options: Record<string, string>, blockBytesMax = 65_464): Agreement =>
  agree({ options: new Map(Object.entries(options)), fileBytes: 213_088, blockBytesMax, limits: defaultLimits })
const oack = (options: Record<string, string>, blockBytesMax?: number): object =>
  Object.fromEntries(agreed(options, blockBytesMax).acknowledged)

test('what firmware asks for is acknowledged', () => {
  const edk2 = { tsize: '0', blksize: '1468', windowsize: '4' }
  expect(oack(edk2)).toEqual({ tsize: '213088', blksize: '1468', windowsize: '4' })
  expect(agreed(edk2).terms).toMatchObject({ blockBytes: 1_468, windowBlocks: 4, fileBytes: 213_088 })
  expect(oack({ timeout: '5', tsize: '0', blksize: '1468' })).toEqual({
    timeout: '5',
    tsize: '213088',
    blksize: '1468',
  })
  expect(agreed({ timeout: '5' }).terms).toMatchObject({ retryAfterMs: 5_000, retryAfterMsMax: 5_000 })
})

test('without options there is no OACK and a block is 512 bytes', () => {
  expect(oack({})).toEqual({})
  expect(agreed({}).terms).toMatchObject({ blockBytes: 512, windowBlocks: 1 })
})

test('too much is answered with less, nonsense is left out', () => {
  expect(oack({ blksize: '65464' }, 1_200)).toEqual({ blksize: '1200' })
  expect(oack({ windowsize: '65535' })).toEqual({ windowsize: String(defaultLimits.windowBlocksMax) })
  expect(oack({ blksize: '7', timeout: '0', windowsize: '0' })).toEqual({})
  expect(oack({ blksize: '-1', timeout: '256', windowsize: '70000' })).toEqual({})
  expect(oack({ blksize: 'large', utimeout: '100', multicast: '' })).toEqual({})
})

test('names come out in one form, and those that climb do not come out', () => {
  expect(normalName('//grubx64.efi')).toBe('grubx64.efi')
  expect(normalName('\\EFI\\BOOT\\grubx64.efi')).toBe('EFI/BOOT/grubx64.efi')
  expect(normalName('./pxelinux.cfg//default')).toBe('pxelinux.cfg/default')
  expect(normalName('dtb/')).toBe('dtb')
  for (const name of ['', '/', '..', '../etc/passwd', 'a/../../b', '..\\..\\b', 'a\nb', 'a\x7f']) {
    expect(normalName(name)).toBeUndefined()
  }
  expect(printableName('a\x1b[2Jb\xff')).toBe('a\\x1b[2Jb\\xff')
})

test('netascii ends lines with CR LF and marks a lone CR', () => {
  expect(Buffer.from(toNetascii(Buffer.from('a\nb\rc\r\n'))).toString()).toBe('a\r\nb\r\0c\r\0\r\n')
})
