/**
 * Goal: what a machine wrote can be seen, taken out, made an image, and taken away, and its image stays for as long as it is
 * needed. Method: QEMU writes into clones as a machine would; the commands are run as a person would.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { patterned } from '../../src/block/device.contract.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const mac = '52:54:00:77:00:10'
const sizeBytes = 16 * 1024 * 1024
let folder = ''
const at = (...names: string[]): string => join(folder, ...names)

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-clones-'))
  writeFileSync(at('golden.img'), patterned(sizeBytes, 3))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

type Result = { readonly code: number | null; readonly said: string; readonly complained: string }

function run(state: string, room: 'image' | 'clone', ...words: string[]): Result {
  const done = spawnSync(slipway, [room, ...words, '--state', state], { encoding: 'utf8', timeout: 60_000 })
  return { code: done.status, said: done.stdout, complained: done.stderr }
}

const tool = (name: string, ...args: string[]): string =>
  execFileSync(name, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

/** A state directory with image lab@1, and a clone of it with 64 KiB that a machine wrote. */
function prepared(name: string): { readonly state: string; readonly clone: string } {
  const state = at(name)
  expect(run(state, 'image', 'add', at('golden.img'), '--name', 'lab').code).toBe(0)
  mkdirSync(join(state, 'clones'))
  const clone = join(state, 'clones', '52-54-00-77-00-10.qcow2')
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', '../images/lab@1.raw', '-F', 'raw', clone)
  tool('qemu-io', '-c', 'write -P 0x5a 1M 64k', clone)
  return { state, clone }
}

test('a clone is listed with its image and what it takes, and its image cannot be removed', () => {
  const { state } = prepared('listed')
  expect(run(state, 'clone', 'list').said).toMatch(/52:54:00:77:00:10 +- +lab@1 +kept +\d+ KiB +-/)
  expect(run(state, 'image', 'show', 'lab').said).toContain(`clones        ${mac}`)
  const refused = run(state, 'image', 'remove', 'lab')
  expect(refused.complained).toContain(`lab@1 is needed by the clones of ${mac}`)
  expect(refused.code).toBe(1)
  run(state, 'image', 'add', at('golden.img'), '--name', 'lab')
  run(state, 'image', 'publish', 'lab@2')
  expect(run(state, 'image', 'remove', 'lab', '--prune').said, 'the clone still needs lab@1').toContain(
    'Nothing to remove',
  )
  expect(run(state, 'clone', 'reset', mac).said).toContain('begins afresh')
  expect(run(state, 'clone', 'list').said.trim().split('\n')).toHaveLength(1)
  expect(run(state, 'image', 'remove', 'lab', '--prune').said).toContain('Removed lab@1')
})

test('commit makes an image of a disk, and export a file; both are what QEMU reads', () => {
  const { state, clone } = prepared('commit')
  expect(run(state, 'clone', 'commit', mac, '--as', 'lab').said).toContain(
    'lab@2. Machines get it after: slipway image publish',
  )
  expect(run(state, 'clone', 'commit', mac, '--as', 'fresh').said).toContain('fresh@1. It is published.')
  for (const file of ['out.img', 'out.qcow2']) {
    expect(run(state, 'clone', 'export', mac, at(file)).complained).toBe('')
    expect(tool('qemu-img', 'compare', clone, at(file))).toContain('identical')
    expect(existsSync(at(`${file}.partial`))).toBe(false)
  }
  tool('qemu-img', 'check', '-q', at('out.qcow2'))
  expect(tool('qemu-img', 'compare', clone, join(state, 'images', 'lab@2.raw'))).toContain('identical')
  const again = run(state, 'clone', 'export', mac, at('out.img'))
  expect(again.complained).toContain('exists already')
})

test('a clone that is in use is left alone, and a machine without one is told so', async () => {
  const { state, clone } = prepared('busy')
  const holder = spawn('flock', ['-x', clone, 'sleep', '60'])
  onTestFinished(() => void holder.kill())
  for (let tries = 0; tries < 100 && !run(state, 'clone', 'list').said.includes('in use'); tries++) await sleep(50)
  for (const words of [
    ['reset', mac],
    ['export', mac, at('never.img')],
  ] as const) {
    const { code, complained } = run(state, 'clone', ...words)
    expect(complained).toContain('is in use\n  Switch it off')
    expect(code).toBe(1)
  }
  expect(existsSync(clone)).toBe(true)
  expect(existsSync(at('never.img'))).toBe(false)
  expect(run(state, 'clone', 'reset', '52:54:00:77:00:99').complained).toContain('has no clone\n  See which')
})
