import { expect, test } from 'vitest'
import { OperationError } from '../base/errors.ts'
import type { Bootability } from '../disk/inspect.ts'
import { whyNoLoader } from './no-loader.ts'
import type { ImageShelf, MeantImage } from './shelf.ts'

const image: MeantImage = { path: '/lab@1.raw', label: 'lab@1', backingName: '../images/lab@1.raw' }
const armOnly: readonly Bootability[] = [
  { firmware: 'bios', bootable: false, reason: 'The boot sector has no code.' },
  { firmware: 'x86_64', bootable: false, reason: 'BOOTX64.EFI is missing.' },
  { firmware: 'arm64', bootable: true, reason: 'BOOTAA64.EFI is on partition 1.' },
]
const shelfWith = (known: readonly Bootability[] | undefined): ImageShelf => {
  return { bootabilityOf: () => known } as unknown as ImageShelf
}

test.each([
  ['x86_64', armOnly, 'BOOTX64.EFI is missing.'],
  ['bios', armOnly, 'The boot sector has no code.'],
  ['riscv64', armOnly, 'There is no loader for riscv64 in \\EFI\\BOOT.'],
  ['arm64', armOnly, undefined],
  ['unknown', armOnly, undefined],
  ['x86_64', undefined, undefined],
  [undefined, armOnly, undefined],
] as const)('%s on a disk for arm64 only', (architecture, known, reason) => {
  const found = whyNoLoader(shelfWith(known), architecture, () => image)
  expect(found).toEqual(reason === undefined ? undefined : { image: 'lab@1', reason })
})

test('nothing is said of a machine that has a system of its own, or no image', () => {
  const missing = (): never => {
    throw new OperationError('imageUnknown', 'there is no image lab', 'Add it.')
  }
  expect(whyNoLoader(shelfWith(armOnly), 'bios', () => undefined)).toBeUndefined()
  expect(whyNoLoader(shelfWith(armOnly), 'bios', missing)).toBeUndefined()
})
