/**
 * Goal: ten thousand connections that never log in cost a real target bounded memory and delay nobody. Method: real sockets, from an
 * address of their own on loopback, into `slipway target` in its own process; honest logins beside them.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { systemHash } from '../../src/host/hash.ts'
import { systemRandom } from '../../src/host/random.ts'
import { systemTcp } from '../../src/host/tcp.ts'
import { connectInitiator } from '../../src/iscsi/initiator.ts'
import { encodeInitiatorPdu } from '../../src/iscsi/initiator-pdu.ts'
import { pendingLoginsMax } from '../../src/iscsi/limits.ts'
import { encodeText } from '../../src/iscsi/text.ts'
import { pduOf } from '../simulation/iscsi-raw.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const port = 13_280
const targetName = 'iqn.2026-01.lab:hostile'
const connectionCount = 10_000

function residentBytes(pid: number): number {
  const [, kibibytes = '0'] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kibibytes) * 1024
}

async function honestLoginMs(): Promise<number> {
  const begunMs = performance.now()
  const session = await connectInitiator({
    network: systemTcp,
    random: systemRandom,
    hash: systemHash,
    to: { address: '127.0.0.1', port },
    initiatorName: 'iqn.2026-01.lab:honest',
    targetName,
  })
  await session.command({ cdb: new Uint8Array(6) })
  expect((await session.command({ cdb: new Uint8Array(6) })).status).toBe(0)
  await session.logout()
  return performance.now() - begunMs
}

test('ten thousand connections that never log in: bounded memory, and an honest login is served beside them', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'slipway-hostile-'))
  const image = join(folder, 'disk.img')
  writeFileSync(image, '')
  truncateSync(image, 1024 * 1024)
  const child = spawn(slipway, [
    'target',
    image,
    '--name',
    targetName,
    '--listen',
    `127.0.0.1:${port}`,
    '--json-events',
  ])
  const sockets: Socket[] = []
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    child.kill('SIGKILL')
    rmSync(folder, { recursive: true })
  })
  await once(child.stdout, 'data')
  child.stdout.resume()
  const pid = child.pid ?? 0
  const quietMs = Math.max(await honestLoginMs(), await honestLoginMs())
  const quietBytes = residentBytes(pid)

  const first = encodeInitiatorPdu(
    pduOf('login', { currentStage: 0, nextStage: 1 }),
    encodeText([
      ['InitiatorName', 'iqn.2026-01.lab:half'],
      ['TargetName', targetName],
      ['AuthMethod', 'None'],
    ]),
  )
  const flood = async (count: number): Promise<void> => {
    const connected: Promise<unknown>[] = []
    for (let i = 0; i < count; i++) {
      const socket = createConnection({ host: '127.0.0.1', port, localAddress: '127.0.0.2' })
      sockets.push(socket)
      connected.push(new Promise((resolve) => socket.once('connect', resolve).once('close', resolve)))
      socket.on('error', () => undefined)
      socket.once('connect', () => {
        // A third says nothing, a third stops in the middle of a PDU, a third stops after it.
        if (sockets.length % 3 > 0) socket.write(sockets.length % 3 === 1 ? first.subarray(0, 60) : first)
      })
      socket.resume()
    }
    await Promise.all(connected)
  }
  const besideMs: number[] = []
  for (let left = connectionCount; left > 0; left -= 500) {
    const [ms] = await Promise.all([honestLoginMs(), flood(500)])
    besideMs.push(ms)
    // Descriptors of the target: those past the limit have made room, at every moment.
    expect(readdirSync(`/proc/${pid}/fd`).length).toBeLessThan(pendingLoginsMax + 100)
  }
  expect(sockets).toHaveLength(connectionCount)
  expect(residentBytes(pid) - quietBytes).toBeLessThan(64 * 1024 * 1024)
  // On a quiet machine some milliseconds; what is shown is that nobody waits for the flood's fifteen seconds.
  expect(Math.max(...besideMs)).toBeLessThan(5_000 + 20 * quietMs)
  await honestLoginMs()
})
