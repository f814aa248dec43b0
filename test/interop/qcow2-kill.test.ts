/**
 * Goal: a Slipway that is killed in the middle of its work leaves a clone that QEMU finds nothing wrong with, and every
 * sector holds what was flushed last or something written since.
 * Method: a real process writes to a real file and is killed with SIGKILL, again and again, on one and the same clone of
 * each kind. SLIPWAY_KILL_RUNS sets how often in all.
 */
import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { seededRandom } from '../../src/base/random.ts'
import { readAll } from '../../src/block/device.contract.ts'
import { type CloneOptions, createClone } from '../../src/block/qcow2/create.ts'
import { openQcow2, readHeader } from '../../src/block/qcow2/open.ts'
import { Histories, sectorBytes, sectorOf } from '../../src/block/testing/histories.ts'
import { nodeCompression } from '../../src/host/compression.ts'
import { openFile } from '../../src/host/file.ts'

const runs = Number(process.env['SLIPWAY_KILL_RUNS'] ?? 40)
const sectors = 8192

/** Runs the writer, kills it, and enters into the histories all that it said. */
async function liveAndDie(clone: string, golden: string, seed: number, histories: Histories): Promise<number> {
  const writer = join(import.meta.dirname, 'qcow2-writer.ts')
  const child = spawn(process.execPath, [writer, clone, golden, String(seed)], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise<void>((resolve) => child.on('close', () => resolve()))
  let said = ''
  const limit = setTimeout(() => child.kill('SIGKILL'), 30_000)
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    if (said === '') setTimeout(() => child.kill('SIGKILL'), 10 + seededRandom(seed)() * 140)
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

/** Clones of every kind are killed in turn, each again and again. */
const kinds: readonly [
  name: string,
  goldenFormat: 'raw' | 'qcow2',
  options: Pick<CloneOptions, 'clusterBits' | 'extendedL2'>,
][] = [
  ['as they are made by default', 'raw', {}],
  ['with clusters of 4 KiB', 'raw', { clusterBits: 12, extendedL2: false }],
  ['with clusters of 2 MiB', 'raw', { clusterBits: 21 }],
  ['on a compressed image', 'qcow2', { clusterBits: 16, extendedL2: false }],
]

test.for(kinds)(`${runs} times killed in all, never damaged: clones %s`, { timeout: 3_600_000 }, async ([
  ,
  goldenFormat,
  options,
]) => {
  const folder = mkdtempSync(join(tmpdir(), 'slipway-kill-'))
  try {
    const golden = join(folder, 'golden.img')
    const clone = join(folder, 'clone.qcow2')
    const content = new Uint8Array(sectors * sectorBytes)
    for (let i = 0; i < sectors; i++) content.set(sectorOf(40_000 + (i % 20_000)), i * sectorBytes)
    writeFileSync(golden, content)
    if (goldenFormat === 'qcow2') {
      renameSync(golden, `${golden}.raw`)
      execFileSync('qemu-img', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', `${golden}.raw`, golden])
    }
    const digest = digestOf(golden)
    const file = await openFile(clone, 'createNew')
    const backing = { name: golden, format: goldenFormat }
    await createClone(file, { sizeBytes: content.byteLength, backing, ...options })
    await file.close()
    const histories = new Histories(Array.from({ length: sectors }, (_, i) => 40_000 + (i % 20_000)))
    const kills = Math.ceil(runs / kinds.length)
    let lines = 0
    for (let run = 1; run <= kills; run++) {
      lines += await liveAndDie(clone, golden, run, histories)
      const report = check(clone)
      expect([report['check-errors'], report['corruptions'] ?? 0], JSON.stringify(report)).toEqual([0, 0])
      const dead = await openFile(clone, 'readOnly')
      const header = await readHeader(dead)
      if ((report['leaks'] ?? 0) > 0) expect(header.dirty, `run ${run}: leaks without the dirty bit`).toBe(true)
      const device = await openQcow2(dead, {
        compression: nodeCompression,
        backing: { resolve: async () => ({ kind: 'file', file: await openFile(golden, 'readOnly') }) },
      })
      const shown = await readAll(device)
      await device.close()
      histories.verify(shown, `run ${run}`)
      if (run % 10 === 0) {
        execFileSync('qemu-img', ['convert', '-O', 'raw', clone, `${clone}.raw`])
        expect(Buffer.compare(readFileSync(`${clone}.raw`), shown), `run ${run}: QEMU reads the same`).toBe(0)
      }
    }
    expect(lines).toBeGreaterThan(kills * 20)
    expect(digestOf(golden)).toBe(digest)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

function digestOf(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}

function check(path: string): Record<string, number> {
  try {
    return JSON.parse(execFileSync('qemu-img', ['check', '--output=json', path], { encoding: 'utf8', stdio: 'pipe' }))
  } catch (error) {
    // Exit status 3 means leaks, and the report is there all the same.
    return JSON.parse((error as { stdout: string }).stdout)
  }
}
