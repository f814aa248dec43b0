/**
 * Goal: a clone that grows until the host's disk is full tells its machine so (SPC-4: DATA PROTECT, 27h/07h), tells people so,
 * and stays good. Method: a real file system that is too small, QEMU as the machine, qemu-img as the judge.
 */
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { patterned } from '../../src/block/device.contract.ts'
import { run } from './iscsi-served.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
let folder = ''
const at = (...names: string[]): string => join(folder, ...names)

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-full-'))
  writeFileSync(at('golden.img'), patterned(32 * 1024 * 1024, 6))
  mkdirSync(at('small'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('a clone that fills the disk says so to its machine and to people, goes on when there is room, and stays good', async () => {
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', at('small')])
  onTestFinished(() => void execFileSync('umount', ['-l', at('small')]))
  const clone = at('small', 'clone.qcow2')
  const probe = createServer()
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve))
  const { port } = probe.address() as AddressInfo
  await new Promise((resolve) => probe.close(resolve))
  const words = ['target', at('golden.img'), '--clone', clone, '--name', 'iqn.2026-01.lab:full', '--json-events']
  const child = spawn(slipway, [...words, '--listen', `127.0.0.1:${port}`], { stdio: ['ignore', 'pipe', 'inherit'] })
  onTestFinished(() => void child.kill('SIGKILL'))
  const events: { kind: string; reason?: string; hint?: string }[] = []
  createInterface(child.stdout).on('line', (line) => events.push(JSON.parse(line) as { kind: string }))
  await expect.poll(() => events.map(({ kind }) => kind), { timeout: 60_000 }).toContain('ready')
  const qemuIo = async (...commands: string[]): Promise<string> => {
    const url = `iscsi://127.0.0.1:${port}/iqn.2026-01.lab:full/0`
    return (await run('qemu-io', ['-f', 'raw', ...commands.flatMap((each) => ['-c', each]), url])).text
  }
  expect(await qemuIo('write -P 0x11 0 2M', 'flush')).not.toContain('failed')
  // QEMU says ENOSPC for 27h/07h and nothing else.
  expect(await qemuIo('write -P 0x22 4M 8M')).toContain('write failed: No space left on device')
  expect(events.find(({ kind }) => kind === 'diskFailed')).toMatchObject({
    reason: expect.stringContaining('the disk is full'),
    hint: expect.stringContaining('Free space'),
  })
  expect(await qemuIo('read -P 0x11 0 2M')).not.toContain('failed')
  execFileSync('mount', ['-o', 'remount,size=64m', at('small')])
  expect(await qemuIo('write -P 0x33 4M 8M', 'flush', 'read -P 0x33 4M 8M')).not.toContain('failed')
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGTERM')
  expect(await ended).toBe(0)
  execFileSync('qemu-img', ['check', '-q', clone])
  const kept = await run('qemu-io', ['-r', '-c', 'read -P 0x11 0 2M', '-c', 'read -P 0x33 4M 8M', clone])
  expect(kept.text).not.toContain('failed')
})
