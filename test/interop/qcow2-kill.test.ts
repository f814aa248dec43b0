/**
 * Goal: a Slipway that is killed in the middle of its work leaves a clone that QEMU finds nothing wrong with, and every
 * sector holds what was flushed last or something written since.
 * Method: a real process writes to a real file and is killed with SIGKILL, again and again, on one and the same clone.
 * SLIPWAY_KILL_RUNS sets how often.
 */
import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { seededRandom } from '../../src/base/random.ts'
import { readAll } from '../../src/block/device.contract.ts'
import { createClone } from '../../src/block/qcow2/create.ts'
import { openQcow2, readHeader } from '../../src/block/qcow2/open.ts'
import { Histories, sectorBytes, sectorOf } from '../../src/block/testing/histories.ts'
import { nodeCompression } from '../../src/host/compression.ts'
import { openFile } from '../../src/host/file.ts'

const runs = Number(process.env['SLIPWAY_KILL_RUNS'] ?? 12)
const sectors = 16_384

/** Runs the writer, kills it, and enters into the histories all that it said. */
async function liveAndDie(clone: string, golden: string, seed: number, histories: Histories): Promise<number> {
  const writer = join(import.meta.dirname, 'qcow2-writer.ts')
  const child = spawn(process.execPath, [writer, clone, golden, String(seed)], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()))
  let said = ''
  const limit = setTimeout(() => child.kill('SIGKILL'), 30_000)
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    if (said === '') setTimeout(() => child.kill('SIGKILL'), 20 + seededRandom(seed)() * 250)
    said += chunk
  })
  await ended
  clearTimeout(limit)
  const changes = new Map<number, (state: 'done') => void>()
  const flushes = new Map<number, () => void>()
  const lines = said.split('\n')
  // The last line may be cut off, and then says what was never begun.
  for (const line of lines.slice(0, -1)) {
    const [kind, id = 0, first = 0, count = 0, tag = 0] = line
      .split(' ')
      .map((word, i) => (i === 0 ? word : Number(word))) as [string, ...number[]]
    if (kind === 'w') changes.set(id, histories.begin(first, count, tag))
    if (kind === 'd') changes.get(id)?.('done')
    if (kind === 'F') flushes.set(id, histories.flushing())
    if (kind === 'f') flushes.get(id)?.()
  }
  expect(lines[0]).toBe('ready')
  return lines.length
}

test(`${runs} times killed, never damaged`, { timeout: 3_600_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'slipway-kill-'))
  try {
    const golden = join(folder, 'golden.img')
    const clone = join(folder, 'clone.qcow2')
    const content = new Uint8Array(sectors * sectorBytes)
    for (let i = 0; i < sectors; i++) content.set(sectorOf(40_000 + i), i * sectorBytes)
    writeFileSync(golden, content)
    const digest = createHash('sha256').update(content).digest('hex')
    const file = await openFile(clone, 'createNew')
    await createClone(file, { sizeBytes: content.byteLength, backing: { name: golden, format: 'raw' } })
    await file.close()
    const histories = new Histories(Array.from({ length: sectors }, (_, i) => 40_000 + i))
    let lines = 0
    for (let run = 1; run <= runs; run++) {
      lines += await liveAndDie(clone, golden, run, histories)
      expectNoError(clone)
      const dead = await openFile(clone, 'readOnly')
      const header = await readHeader(dead)
      if (leaksOf(clone) > 0) expect(header.dirty, `run ${run}: leaks without the dirty bit`).toBe(true)
      const device = await openQcow2(dead, {
        compression: nodeCompression,
        backing: {
          resolve: async () => ({ kind: 'file', file: await openFile(golden, 'readOnly'), format: 'raw' }),
        },
      })
      const shown = await readAll(device)
      await device.close()
      histories.verify(shown, `run ${run}`)
      if (run % 10 === 0) {
        execFileSync('qemu-img', ['convert', '-O', 'raw', clone, `${clone}.raw`])
        expect(Buffer.compare(readFileSync(`${clone}.raw`), shown), `run ${run}: QEMU reads the same`).toBe(0)
      }
    }
    expect(lines).toBeGreaterThan(runs * 20)
    expect(createHash('sha256').update(readFileSync(golden)).digest('hex')).toBe(digest)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

function check(path: string): Record<string, number> {
  try {
    return JSON.parse(execFileSync('qemu-img', ['check', '--output=json', path], { encoding: 'utf8', stdio: 'pipe' }))
  } catch (error) {
    // Exit status 3 means leaks, and the report is there all the same.
    return JSON.parse((error as { stdout: string }).stdout)
  }
}

function expectNoError(path: string): void {
  const report = check(path)
  expect([report['check-errors'], report['corruptions'] ?? 0], JSON.stringify(report)).toEqual([0, 0])
}

function leaksOf(path: string): number {
  return check(path)['leaks'] ?? 0
}
