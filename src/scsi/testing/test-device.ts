/** Block devices for tests: one that answers late, fails where told and counts flushes; one that is thin. */
import type { OperationError } from '../../base/errors.ts'
import type { BlockDevice, Extent, Pending } from '../../block/device.ts'
import { createMemoryDevice } from '../../block/memory.ts'

export interface LateDevice extends BlockDevice {
  flushes: number
  /** What every operation fails with, while it is set. */
  failure: OperationError | undefined
  /** Operations wait here while it is set. */
  hold: Promise<void> | undefined
}

/** Answers in a later turn. */
export function lateDevice(bytes: number, failure?: OperationError): LateDevice {
  const memory = createMemoryDevice(bytes)
  const later = async (of: LateDevice, work: () => Pending): Promise<void> => {
    await new Promise((resolve) => setImmediate(resolve))
    await of.hold
    if (of.failure !== undefined) throw of.failure
    await work()
  }
  const device: LateDevice = {
    sizeBytes: bytes,
    blockBytes: 512,
    readOnly: false,
    thin: false,
    flushes: 0,
    failure,
    hold: undefined,
    read: (offset, target) => later(device, () => memory.read(offset, target)),
    write: (offset, source) => later(device, () => memory.write(offset, source)),
    flush() {
      device.flushes++
      return later(device, () => undefined)
    },
    writeZeroes: (offset, size) => later(device, () => memory.writeZeroes(offset, size, false)),
    discard: () => undefined,
    extent: (_offset, size) => ({ allocated: true, bytes: size }),
    close: () => Promise.resolve(),
  }
  return device
}

const granuleBytes = 4096

/** Knows for each 4 KiB whether it has been written since it was discarded. */
export function thinDevice(bytes: number): BlockDevice {
  const memory = createMemoryDevice(bytes)
  const isAllocated = new Uint8Array(Math.ceil(bytes / granuleBytes))
  const device: BlockDevice = {
    sizeBytes: bytes,
    blockBytes: 512,
    readOnly: false,
    thin: true,
    read: (offset, target) => memory.read(offset, target),
    write(offset, source) {
      isAllocated.fill(1, Math.floor(offset / granuleBytes), Math.ceil((offset + source.byteLength) / granuleBytes))
      return memory.write(offset, source)
    },
    flush: () => undefined,
    writeZeroes(offset, size, mayUnmap) {
      const first = Math.ceil(offset / granuleBytes)
      const end = Math.floor((offset + size) / granuleBytes)
      if (mayUnmap && first < end) isAllocated.fill(0, first, end)
      return memory.writeZeroes(offset, size, mayUnmap)
    },
    discard: (offset, size) => device.writeZeroes(offset, size, true),
    extent(offset, size): Extent {
      const first = Math.floor(offset / granuleBytes)
      const allocated = isAllocated[first] === 1
      let end = first
      while (end * granuleBytes < offset + size && (isAllocated[end] === 1) === allocated) end++
      return { allocated, bytes: Math.min(end * granuleBytes, offset + size) - offset }
    },
    close: () => Promise.resolve(),
  }
  return device
}
