/**
 * Goal: libiscsi's conformance suite fails nowhere, with one path and with two. Method: iscsi-test-cu, destructive tests and
 * SANITIZE included, against an ephemeral clone. docs/conformance.md says why something is skipped.
 */
import { expect, test } from 'vitest'
import type { BlockDevice } from '../../src/block/device.ts'
import { createMemoryDevice } from '../../src/block/memory.ts'
import { createMemoryFile } from '../../src/block/memory-file.ts'
import { createOverlay } from '../../src/block/overlay.ts'
import type { ReservationStore } from '../../src/scsi/reservations/store.ts'
import { run, serve } from './iscsi-served.ts'

const mebibyte = 1024 * 1024

function ephemeralClone(): BlockDevice {
  const golden = createMemoryDevice(new Uint8Array(64 * mebibyte), { readOnly: true })
  return createOverlay({ golden, changes: createMemoryFile(128 * mebibyte) })
}

/** Enough to let registrations claim that they survive (APTPL). */
function reservationMemory(): ReservationStore {
  return { saved: undefined, save: () => Promise.resolve() }
}

test.each([
  ['one path', 1],
  ['two paths', 2],
])('iscsi-test-cu over %s: 0 failed', async (_, pathCount) => {
  const served = await serve({
    device: ephemeralClone(),
    // The suite's GetLBAStatus.UnmapSingle contradicts itself unless a physical block is a logical one.
    physicalBlockBytes: 512,
    reservationStore: reservationMemory(),
    // Sanitize.Reset looks after some seconds whether the work still goes on: 64 MiB must not be done by then.
    sanitizeSlowness: 10,
  })
  const urls = Array.from({ length: pathCount }, () => served.url)
  const { text } = await run('iscsi-test-cu', ['--dataloss', '--allow-sanitize', '-v', '-t', 'ALL', ...urls], {
    withinSeconds: 280,
  })
  const summary = /tests\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)/.exec(text)
  const failures = text.split('\n').filter((line) => /^\s+\d+\. /.test(line))
  expect(failures).toEqual([])
  expect(summary?.[4]).toBe('0')
  expect(Number(summary?.[2])).toBeGreaterThan(200)
  await served.close()
})
