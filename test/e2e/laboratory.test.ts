/** Goal: the laboratory leaves nothing behind, however it ends, and nothing gets out of it. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { runCommand } from '../../lab/child.ts'
import { LabNetwork, lab } from '../../lab/namespace.ts'

const projectFolder = resolve(import.meta.dirname, '..', '..')

/** The processes in a network namespace, by its name as /proc shows it: 'net:[4026532008]'. */
function processesIn(namespace: string): string[] {
  return readdirSync('/proc').filter((entry) => {
    if (!/^\d+$/.test(entry)) return false
    try {
      return readlinkSync(join('/proc', entry, 'ns', 'net')) === namespace
    } catch {
      return false // gone already, or not ours to look at
    }
  })
}

test('when the process that made a network is killed, everything that ran in it goes too', async () => {
  const script = `
    import { LabNetwork } from './lab/namespace.ts'
    const network = await LabNetwork.create()
    await network.addTap()
    const inside = network.start(['sh', '-c', 'readlink /proc/self/ns/net; exec sleep 600'], { name: 'sleep' })
    inside.output.pipe(process.stdout)
  `
  const maker = spawn(process.execPath, ['--input-type=module-typescript', '--eval', script], { cwd: projectFolder })
  onTestFinished(() => {
    maker.kill('SIGKILL')
  })
  const [printed] = (await once(maker.stdout, 'data')) as [Buffer]
  const namespace = printed.toString().trim()
  expect(namespace).toMatch(/^net:\[\d+\]$/)
  expect(processesIn(namespace).length).toBeGreaterThanOrEqual(2)

  maker.kill('SIGKILL')
  await expect.poll(() => processesIn(namespace), { timeout: 5000 }).toEqual([])
})

test('nothing of a network is seen outside of it', async () => {
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const tap = await network.addTap()
  expect(await network.run(['ip', 'link'], 'ip')).toContain(tap)
  const outside = await runCommand(['ip', 'link'], { name: 'ip' })
  expect(outside).not.toContain(lab.interfaceName)
  expect(await network.run(['ip', 'route'], 'ip')).not.toContain('default')
})

test('Ctrl-C in the middle of the demo, which reaches every process of the terminal, leaves nothing behind', async () => {
  const temporary = mkdtempSync(join(tmpdir(), 'slipway-demo-'))
  onTestFinished(() => rmSync(temporary, { recursive: true, force: true }))
  const demo = spawn(process.execPath, ['scripts/demo.ts', '--firmware', 'bios'], {
    cwd: projectFolder,
    env: { ...process.env, TMPDIR: temporary },
    detached: true, // a process group of its own, as a shell gives to what it runs
  })
  let printed = ''
  for (const stream of [demo.stdout, demo.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      printed += text
    })
  }
  onTestFinished(() => {
    demo.kill('SIGKILL')
  })
  await expect.poll(() => printed, { timeout: 120_000 }).toContain('power on')
  process.kill(-(demo.pid ?? Number.NaN), 'SIGINT')
  const [code] = (await once(demo, 'close')) as [number | null]
  expect(printed).toContain('cleaning up')
  expect(printed).not.toContain('failed')
  expect(code).toBe(130)
  expect(readdirSync(temporary)).toEqual([])
})
