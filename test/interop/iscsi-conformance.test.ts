/**
 * Goal: libiscsi's conformance suite fails nowhere. Method: iscsi-test-cu, destructive tests and SANITIZE included, against what
 * `slipway target` serves when it is told nothing but the image, whole and over one path, then over two; then against disks of
 * other kinds. docs/conformance.md says why something is skipped.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, expect, test } from 'vitest'
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
  return serve({ device: ephemeralClone(), ...options, reservationStore: reservationMemory() })
}

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const folder = mkdtempSync(join(tmpdir(), 'slipway-conformance-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** `slipway target IMAGE` and no more, while the test lasts; returns the disk's URL. */
async function startDefault(port: number, stop: (ending: () => void) => void): Promise<string> {
  const image = join(folder, `${port}.img`)
  writeFileSync(image, '')
  truncateSync(image, 64 * mebibyte)
  const child = spawn(slipway, ['target', image, '--listen', `127.0.0.1:${port}`, '--json-events'])
  stop(() => child.kill('SIGKILL'))
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString()
  })
  const lines = createInterface({ input: child.stdout })
  return new Promise((resolve, reject) => {
    child.once('exit', () => reject(new Error(`slipway target ended: ${said}`)))
    lines.on('line', (line) => {
      const event = JSON.parse(line) as { readonly kind: string; readonly targetName: string }
      if (event.kind === 'ready') resolve(`iscsi://127.0.0.1:${port}/${event.targetName}/0`)
    })
  })
}

type Summary = { readonly ran: number; readonly failures: readonly string[] }

async function suite(names: string, urls: readonly string[]): Promise<Summary> {
  const args = ['--dataloss', '--allow-sanitize', '-v', ...(names === '' ? [] : ['-t', names]), ...urls]
  const { text } = await run('iscsi-test-cu', args, { withinSeconds: 1_500 })
  const summary = /tests\s+\d+\s+(\d+)\s+\d+\s+(\d+)/.exec(text)
  expect(summary, `${names}: ${text}`).not.toBeNull()
  const failures = text.split('\n').filter((line) => /^\s+\d+\. /.test(line))
  if (failures.length === 0) expect(Number(summary?.[2]), text).toBe(0)
  return { ran: Number(summary?.[1]), failures }
}

// Most of its minutes the suite sleeps: it looks once a minute whether a SANITIZE has ended.
const minutes = { timeout: 1_600_000 } as const
test.concurrent('iscsi-test-cu, whole, against the default of slipway target: 0 failed', minutes, async (context) => {
  const url = await startDefault(13_270, context.onTestFinished)
  const { ran, failures } = await suite('', [url])
  expect(failures).toEqual([])
  expect(ran).toBeGreaterThan(600)
})

test.concurrent('iscsi-test-cu over two paths, against the default: 0 failed', minutes, async (context) => {
  const url = await startDefault(13_271, context.onTestFinished)
  const { text } = await run('iscsi-test-cu', ['-l'])
  const names = text.split('\n').filter((name) => name.startsWith('ALL.'))
  const isSuite = (name: string): boolean => name.split('.').length === 2
  // Sanitize.Reservations leaves the second path's RESERVE (6) behind, which only its logout ends: one process each.
  const runs = names.filter((name) => (name.startsWith('ALL.Sanitize') ? !isSuite(name) : isSuite(name)))
  let ran = 0
  for (const name of runs) {
    const summary = await suite(name, [url, url])
    expect(summary.failures, name).toEqual([])
    ran += summary.ran
  }
  expect(ran).toBeGreaterThan(200)
})

test.concurrent('with registrations that outlive a restart, and 4 KiB physical blocks: 0 failed', async () => {
  const served = await serveForSuite({ physicalBlockBytes: 4096 })
  const { text } = await run('iscsi-test-cu', ['-l'])
  const suites = text.split('\n').filter((name) => name.startsWith('ALL.') && name.split('.').length === 2)
  // Sanitize takes minutes, and is the same; GetLBAStatus.UnmapSingle contradicts itself on such a disk.
  for (const name of suites.filter((name) => !/Sanitize|GetLBAStatus/.test(name))) {
    expect((await suite(name, [served.url])).failures, name).toEqual([])
  }
  for (const name of ['ALL.GetLBAStatus.Simple', 'ALL.GetLBAStatus.BeyondEol']) {
    expect((await suite(name, [served.url])).failures, name).toEqual([])
  }
  expect(served.faults).toEqual([])
  await served.close()
})

test.concurrent('what asks for a write-protected disk gets one: 0 failed', async () => {
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
