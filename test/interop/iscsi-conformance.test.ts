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
import { run, type Served, type ServedOptions, serve } from './iscsi-served.ts'

const mebibyte = 1024 * 1024

function ephemeralClone(): BlockDevice {
  const golden = createMemoryDevice(new Uint8Array(64 * mebibyte), { readOnly: true })
  return createOverlay({ golden, changes: createMemoryFile(128 * mebibyte) })
}

/** Enough to let registrations claim that they survive (APTPL). */
function reservationMemory(): ReservationStore {
  return { saved: undefined, save: () => Promise.resolve() }
}

function serveForSuite(options: Partial<ServedOptions> = {}): Promise<Served> {
  return serve({
    device: ephemeralClone(),
    // GetLBAStatus.UnmapSingle contradicts itself unless a physical block is a logical one.
    physicalBlockBytes: 512,
    ...options,
    reservationStore: reservationMemory(),
    // Sanitize.Reset looks after some seconds whether the work still goes on: 64 MiB must not be done by then.
    sanitizeSlowness: 10,
  })
}

type Summary = { readonly ran: number; readonly failures: readonly string[] }

async function suite(names: string, urls: readonly string[]): Promise<Summary> {
  const args = ['--dataloss', '--allow-sanitize', '-v', ...(names === '' ? [] : ['-t', names]), ...urls]
  const { text } = await run('iscsi-test-cu', args, { withinSeconds: 290 })
  const summary = /tests\s+\d+\s+(\d+)\s+\d+\s+(\d+)/.exec(text)
  expect(summary, `${names}: ${text}`).not.toBeNull()
  const failures = text.split('\n').filter((line) => /^\s+\d+\. /.test(line))
  if (failures.length === 0) expect(Number(summary?.[2]), text).toBe(0)
  return { ran: Number(summary?.[1]), failures }
}

test.concurrent('iscsi-test-cu over one path: 0 failed', { timeout: 300_000 }, async () => {
  const served = await serveForSuite()
  const { ran, failures } = await suite('ALL', [served.url])
  expect(failures).toEqual([])
  expect(ran).toBeGreaterThan(200)
  expect(served.faults).toEqual([])
  await served.close()
})

test.concurrent('iscsi-test-cu over two paths: 0 failed', { timeout: 300_000 }, async () => {
  const served = await serveForSuite()
  const { text } = await run('iscsi-test-cu', ['-l'])
  const names = text.split('\n').filter((name) => name.startsWith('ALL.'))
  const isSuite = (name: string): boolean => name.split('.').length === 2
  // Sanitize.Reservations leaves the second path's RESERVE (6) behind, which only its logout ends: one process each.
  const runs = names.filter((name) => (name.startsWith('ALL.Sanitize') ? !isSuite(name) : isSuite(name)))
  let ran = 0
  for (const name of runs) {
    const summary = await suite(name, [served.url, served.url])
    expect(summary.failures, name).toEqual([])
    ran += summary.ran
  }
  expect(ran).toBeGreaterThan(200)
  expect(served.faults).toEqual([])
  await served.close()
})

test.concurrent('what asks for large physical blocks, and for a write-protected disk, gets them: 0 failed', async () => {
  const large = await serveForSuite({ physicalBlockBytes: 4096 })
  for (const name of ['ALL.CompareAndWrite', 'ALL.WriteSame10', 'ALL.WriteSame16', 'ALL.Unmap', 'ALL.ReadCapacity16']) {
    expect((await suite(name, [large.url])).failures, name).toEqual([])
  }
  await large.close()
  const readOnly = await serveForSuite({ device: createMemoryDevice(new Uint8Array(mebibyte), { readOnly: true }) })
  expect((await suite('ALL.ReadOnly', [readOnly.url])).failures).toEqual([])
  await readOnly.close()
})

test.concurrent('a disk of 4 KiB blocks reads, writes and unmaps as the suite wants: 0 failed', async () => {
  const golden = createMemoryDevice(new Uint8Array(64 * mebibyte), { readOnly: true, blockBytes: 4096 })
  const device = createOverlay({ golden, changes: createMemoryFile(128 * mebibyte) })
  const served = await serveForSuite({ device, physicalBlockBytes: 4096 })
  for (const name of ['Read10', 'Read16', 'Write10', 'Write16', 'Unmap', 'WriteSame16', 'CompareAndWrite', 'Inquiry']) {
    expect((await suite(`ALL.${name}`, [served.url])).failures, name).toEqual([])
  }
  await served.close()
})
