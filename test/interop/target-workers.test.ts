/**
 * Goal: targets live in workers, initiators are sent there, and what becomes of a worker is told and mended. Method: Debian's
 * initiators against `slipway target --workers`, as a person would start it; workers are killed under them.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, linkSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, expect, onTestFinished, test } from 'vitest'
import type { TargetEvent } from '../../src/app/target.ts'
import { run } from './iscsi-served.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const folder = mkdtempSync(join(tmpdir(), 'slipway-workers-'))
afterAll(() => rmSync(folder, { recursive: true }))

const prefix = 'iqn.2026-01.internal.slipway'
const patienceMs = 20_000

type Started = {
  readonly child: ChildProcess
  readonly events: readonly TargetEvent[]
  /** Resolves with the first event that is so, also one of the past. */
  readonly heard: (kind: TargetEvent['kind'], count?: number) => Promise<TargetEvent>
  readonly exited: Promise<number | null>
}

let nextPort = 23_260
function freshPort(): number {
  nextPort += 10
  return nextPort
}

function imageOf(name: string): string {
  const path = join(folder, name)
  writeFileSync(path, randomBytes(1024 * 1024))
  return path
}

function start(port: number, ...words: string[]): Started {
  const args = ['target', '--listen', `127.0.0.1:${port}`, '--json-events', ...words]
  // A group of its own, so that a test can send a signal to all of it, as a terminal does.
  const child = spawn(slipway, args, { stdio: ['ignore', 'pipe', 'inherit'], detached: true })
  onTestFinished(() => {
    child.kill('SIGKILL')
  })
  const events: TargetEvent[] = []
  const listeners = new Set<() => void>()
  let rest = ''
  child.stdout.on('data', (text) => {
    const lines = `${rest}${text}`.split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) events.push(JSON.parse(line) as TargetEvent)
    for (const listener of listeners) listener()
  })
  const heard = (kind: TargetEvent['kind'], count = 1): Promise<TargetEvent> =>
    new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`no ${kind} in ${JSON.stringify(events)}`)), patienceMs)
      const look = (): void => {
        const found = events.filter((event) => event.kind === kind)[count - 1]
        if (found === undefined) return
        clearTimeout(late)
        listeners.delete(look)
        resolve(found)
      }
      listeners.add(look)
      look()
    })
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve))
  return { child, events, heard, exited }
}

function workersOf({ child }: Started): number[] {
  const text = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim()
  return text.split(' ').map(Number)
}

async function untilGone(pids: readonly number[]): Promise<void> {
  while (pids.some((pid) => existsSync(`/proc/${pid}`))) await sleep(20)
}

test('an initiator is sent to its target’s worker, proves itself there, and reads its disk; no secret can be seen', async () => {
  const [a, b] = [imageOf('a.img'), imageOf('b.img')]
  const secret = 'a secret for workers'
  const secretFile = join(folder, 'secret')
  writeFileSync(secretFile, `${secret}\n`, { mode: 0o600 })
  const port = freshPort()
  const served = start(port, a, b, '--workers', '2', '--read-only', '--chap', 'me', '--chap-secret-file', secretFile)
  await served.heard('ready', 2)
  const workers = workersOf(served)
  expect(workers).toHaveLength(2)
  for (const pid of [served.child.pid, ...workers]) {
    for (const file of ['cmdline', 'environ']) {
      expect(readFileSync(`/proc/${pid}/${file}`, 'utf8')).not.toContain(secret)
    }
  }
  const credential = `me%${secret}`
  const listed = await run('iscsi-ls', [`iscsi://${credential}@127.0.0.1:${port}`])
  expect(listed.text).toContain(`Target:${prefix}:a.img Portal:127.0.0.1:${port},1`)
  expect(listed.text).toContain(`Target:${prefix}:b.img Portal:127.0.0.1:${port},1`)
  for (const [name, image] of [
    ['a.img', a],
    ['b.img', b],
  ] as const) {
    const url = `iscsi://${credential}@127.0.0.1:${port}/${prefix}:${name}/0`
    const compared = await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', url, image])
    expect(compared.text).toContain('Images are identical')
  }
  const wrong = await run('qemu-img', ['info', `iscsi://me%not the secret@127.0.0.1:${port}/${prefix}:a.img/0`])
  expect(wrong.status).toBe(1)
  expect(served.events).toContainEqual(expect.objectContaining({ kind: 'loginFailed', reason: 'wrongCredentials' }))
  const sentOn = served.events.filter((event) => event.kind === 'loginFailed' && event.reason === 'redirected')
  expect(sentOn).toContainEqual(expect.objectContaining({ detail: `moved to 127.0.0.1:${port + 1}` }))
  expect(sentOn).toContainEqual(expect.objectContaining({ detail: `moved to 127.0.0.1:${port + 2}` }))
  served.child.kill('SIGTERM')
  expect(await served.exited).toBe(0)
  await untilGone(workers)
})

test('a worker that is killed is told of and started again at its port, and what was flushed is there', async () => {
  const [a, b] = [imageOf('c.img'), imageOf('d.img')]
  const port = freshPort()
  const served = start(port, a, b, '--workers', '2', '--in-place')
  await served.heard('ready', 2)
  const url = `iscsi://127.0.0.1:${port}/${prefix}:c.img/0`
  expect((await run('qemu-io', ['-f', 'raw', '-c', 'write -P 0x5a 0 64k', '-c', 'flush', url])).status).toBe(0)
  const workers = workersOf(served)
  for (const pid of workers) process.kill(pid, 'SIGKILL')
  const ended = await served.heard('workerEnded')
  expect(ended).toMatchObject({ reason: 'signal SIGKILL', restartsInMs: 250 })
  await served.heard('workerRestarted', 2)
  const read = await run('qemu-io', ['-f', 'raw', '-c', 'read -P 0x5a 0 64k', url])
  expect(read.text).toContain('read 65536/65536')
  expect(read.text).not.toContain('failed')
  expect(served.events).toContainEqual(expect.objectContaining({ detail: `moved to 127.0.0.1:${port + 1}` }))
  // Ctrl-C in a terminal reaches the workers too: they leave the order of things to their parent.
  process.kill(-(served.child.pid ?? 0), 'SIGINT')
  expect(await served.exited).toBe(0)
})

test('a disk that was in a worker’s memory does not come back empty: its initiators are told that it is not there', async () => {
  const image = imageOf('e.img')
  const port = freshPort()
  const served = start(port, image, image, '--workers', '2')
  await served.heard('ready', 2)
  const [worker = 0] = workersOf(served)
  process.kill(worker, 'SIGKILL')
  const ended = await served.heard('workerEnded')
  expect(ended).not.toHaveProperty('restartsInMs')
  const [lost = ''] = ended.kind === 'workerEnded' ? ended.targetNames : []
  const url = (name: string): string => `iscsi://127.0.0.1:${port}/${name}/0`
  expect((await run('qemu-img', ['info', url(lost)])).text).toMatch(/Service unavailable|0x301|\(769\)/i)
  const other = [`${prefix}:e.img`, `${prefix}:e.img-2`].find((name) => name !== lost) ?? ''
  expect((await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', url(other), image])).text).toContain('identical')
})

test('workers whose parent was killed end by themselves', async () => {
  const port = freshPort()
  const served = start(port, imageOf('f.img'), '--workers', '1')
  await served.heard('ready')
  const workers = workersOf(served)
  served.child.kill('SIGKILL')
  await untilGone(workers)
})

test('what a worker cannot do is said as if there were none, and what makes no sense is refused', async () => {
  const port = freshPort()
  const image = imageOf('g.img')
  const other = join(folder, 'h.img')
  linkSync(image, other)
  const [missing, many, named, twice, linked] = await Promise.all([
    run(slipway, ['target', image, join(folder, 'nowhere.img'), '--workers', '2', '--listen', `127.0.0.1:${port}`]),
    run(slipway, ['target', image, '--workers', '2']),
    run(slipway, ['target', image, image, '--name', `${prefix}:x`]),
    run(slipway, ['target', image, image, '--in-place']),
    run(slipway, ['target', image, other, '--in-place', '--workers', '2', '--listen', `127.0.0.1:${freshPort()}`]),
  ])
  expect(missing.text).toMatch(/nowhere\.img is not there\n {2}Check the path/)
  expect(missing.status).toBe(1)
  expect(many.text).toMatch(/2 workers for 1 images\n {2}A target lives in one worker/)
  expect(many.status).toBe(2)
  expect(named.text).toContain('--name is for one image, and there are 2')
  expect(twice.text).toContain('is named twice with --in-place')
  expect(linked.text).toMatch(/[gh]\.img is in use by process \d+\n {2}Two that write to one disk destroy it/)
  expect(linked.status).toBe(1)
})
