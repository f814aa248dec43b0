/** Goal: Slipway runs as a service does: not as root, with three capabilities, on sockets that systemd opened, and small. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { chmod, chown } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import type { Child } from '../../lab/child.ts'
import { goldenImage } from '../../lab/golden-image.ts'
import { LabNetwork, lab } from '../../lab/namespace.ts'

const slipway = resolve(import.meta.dirname, '..', '..', 'bin', 'slipway')
const nobody = 65_534
const capabilities = '-all,+net_bind_service,+net_admin,+net_raw'
const range = `${lab.firstLease}-${lab.lastLease}`
const idleBytesMax = 120 * 1024 * 1024
const readyMsMax = 1_000

function folderOf(): string {
  const folder = mkdtempSync(join(tmpdir(), 'slipway-service-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return folder
}

/** Everything it printed, as it comes. */
function listen(server: Child): () => string {
  let printed = ''
  server.output.on('data', (text) => {
    printed += String(text)
  })
  return () => printed
}

test('without root, with the capabilities of the unit, every service is up', async () => {
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const { path } = await goldenImage('tiny')
  const state = folderOf()
  await chown(state, nobody, nobody)
  // A checkout that only root may enter is run by root without root's powers: the same capabilities, another owner.
  const asNobody = ['setpriv', `--reuid=${nobody}`, `--regid=${nobody}`, '--clear-groups']
  const reachable = await network.run([...asNobody, 'test', '-r', slipway, '-a', '-r', path], 'test').then(
    () => true,
    () => false,
  )
  if (!reachable) await chown(state, 0, 0)
  const limits = [`--inh-caps=${capabilities}`, `--ambient-caps=${capabilities}`, `--bounding-set=${capabilities}`]
  const confined = [...(reachable ? asNobody : ['setpriv']), ...limits, '--no-new-privs']
  const server = network.start([...confined, slipway, 'up', path, '--dhcp', range, '--state', state, '--verbose'], {
    name: 'slipway',
  })
  const printed = listen(server)
  for (const service of ['iscsi', 'http', 'tftp', 'dhcp', 'https']) {
    await expect.poll(printed, { timeout: 10_000 }).toContain(`${service} is ready`)
  }
  expect(printed()).not.toContain('no router advertisements')
  expect(await server.stop('SIGINT', 10_000)).toEqual({ code: 0, signal: null })
})

test('ports that systemd opened are used, so that a restart loses no connection attempt', async () => {
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const { path } = await goldenImage('tiny')
  const { serverAddress } = lab
  const sockets = [80, 443, 8443, 3260].flatMap((port) => ['-l', `${serverAddress}:${port}`])
  const command = [slipway, 'up', path, '--dhcp', range, '--state', folderOf()]
  const server = network.start(['systemd-socket-activate', ...sockets, ...command], { name: 'slipway' })
  // The first connection starts it; the answer comes from the program that was not there when the client connected.
  const curl = ['curl', '-sS', '--retry', '5', '--retry-connrefused', '-o', '/dev/null', '-w', '%{http_code}']
  expect(await network.run([...curl, `http://${serverAddress}/boot/52-54-00-00-00-01.ipxe`], 'curl')).toBe('200')
  // Both wait in their queues until a first start has made its keys, a few seconds later.
  for (const port of [443, 8443]) {
    const secure = `https://${serverAddress}:${port}/boot/52-54-00-00-00-01.ipxe`
    expect(await network.run([...curl, '--insecure', secure], 'curl')).toBe('200')
  }
  expect(await server.stop('SIGINT', 10_000)).toEqual({ code: 0, signal: null })
})

test('ready within a second, under 120 MB when idle', async () => {
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const { path } = await goldenImage('tiny')
  const state = folderOf()
  await chmod(state, 0o700)
  const took: number[] = []
  // The first start compiles the sources and makes the certificates; those after it are what a restart costs.
  for (let start = 0; start < 4; start++) {
    const startedMs = performance.now()
    const server = network.start([slipway, 'up', path, '--dhcp', range, '--state', state], { name: 'slipway' })
    const printed = listen(server)
    await expect.poll(printed, { timeout: 10_000, interval: 10 }).toContain('dhcp is ready')
    took.push(performance.now() - startedMs)
    if (start === 3) {
      await expect.poll(printed, { timeout: 10_000 }).toContain('https is ready')
      await new Promise((done) => setTimeout(done, 1_000))
      const status = readFileSync(`/proc/${server.processId}/status`, 'utf8')
      expect(Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024).toBeLessThan(idleBytesMax)
    }
    expect(await server.stop('SIGINT', 10_000)).toEqual({ code: 0, signal: null })
  }
  expect(Math.min(...took.slice(1))).toBeLessThan(readyMsMax)
})
