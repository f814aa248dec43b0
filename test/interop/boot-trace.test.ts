/**
 * Goal: what one machine read while it booted is in memory before the next one asks, also when memory was cold. Method: `slipway
 * up` with an image on an NBD server that writes down every read it gets (nbdkit's log), so that it is seen when each block
 * was fetched; a recorded boot of Debian replayed by our own initiator; Slipway started anew between the boots.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { readRecording } from '../../bench/boot-recording.ts'
import { LabNetwork, lab } from '../../lab/namespace.ts'
import { SlipwayServer } from '../../lab/slipway.ts'
import { NbdServer } from './nbd-server.ts'
import { fetchScript } from './script-login.ts'

const withinMs = 60_000
const pageBytes = 4096
const recording = readRecording()

/** Pages that the boot has from the image: what it wrote before is on its own disk. */
function pagesOfTheBoot(): Set<number> {
  const wanted = new Set<number>()
  const written = new Set<number>()
  for (const { write, offset, bytes } of recording.requests) {
    for (let page = Math.floor(offset / pageBytes); page * pageBytes < offset + bytes; page++) {
      if (write) written.add(page)
      else if (!written.has(page)) wanted.add(page)
    }
  }
  return wanted
}

/** Reads that the image's server was asked for, in order. */
async function readsIn(logPath: string): Promise<{ offset: number; bytes: number }[]> {
  const log = await readFile(logPath, 'utf8')
  return [...log.matchAll(/ Read id=\d+ offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+)/g)].map(([, offset, count]) => ({
    offset: Number(offset),
    bytes: Number(count),
  }))
}

const bytesOf = (reads: readonly { bytes: number }[]): number => reads.reduce((sum, { bytes }) => sum + bytes, 0)

test('on a cold cache the second boot of an image finds all that it reads in memory, before it has asked for any of it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-trace-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const logPath = join(folder, 'reads.log')
  const pattern = ['pattern', `size=${recording.diskBytes}`, `logfile=${logPath}`]
  const image = new NbdServer(join(folder, 'image.sock'), 'nbdkit', [
    '-f',
    '-r',
    '-U',
    '{socket}',
    '--filter=log',
    ...pattern,
  ])
  await image.start()
  const stateFolder = join(folder, 'state')
  const add = ['bin/slipway', 'image', 'add', image.uri(), '--name', 'farm', '--state', stateFolder]
  expect(await network.run(add, 'slipway image add')).toContain('Added farm@1')

  const startServer = async (): Promise<SlipwayServer> => {
    const parts = { network, imagePath: 'farm', dhcp: 'own', admit: 'all', chap: 'none' } as const
    const server = await SlipwayServer.start({ ...parts, stateFolder })
    onTestFinished(async () => void (await server.stop()))
    return server
  }
  const scriptOf = (last: number) =>
    fetchScript({ network }, `http://${lab.serverAddress}/boot/52-54-00-77-01-0${last}.ipxe`)
  const replay = async (script: Awaited<ReturnType<typeof scriptOf>>): Promise<void> => {
    const words = [script.get('target') ?? '', script.get('initiator-iqn') ?? '']
    const replayer = join(import.meta.dirname, 'boot-replayer.ts')
    const line = [process.execPath, replayer, lab.serverAddress, ...words]
    expect(await network.run(line, 'the machine')).toMatch(/^\d+ reads\n$/)
  }

  const first = await startServer()
  const beforeFirst = await readsIn(logPath)
  await replay(await scriptOf(1))
  expect(await first.waitFor('bootTraceRecorded', withinMs)).toMatchObject({ image: 'farm@1' })
  expect(first.eventsOf('bootTraceFetched'), 'there was no trace yet').toEqual([])
  expect((await readsIn(logPath)).length).toBeGreaterThan(beforeFirst.length)
  await first.stop()

  const second = await startServer()
  const beforeScript = (await readsIn(logPath)).length
  const script = await scriptOf(2)
  const fetched = await second.waitFor('bootTraceFetched', withinMs)
  expect(fetched).toMatchObject({ image: 'farm@1' })
  const ahead = (await readsIn(logPath)).slice(beforeScript)
  expect(second.eventsOf('iscsiLogin'), 'it has its script, and has asked for nothing').toHaveLength(0)
  const here = new Set<number>()
  for (const { offset, bytes } of ahead) {
    for (let at = offset; at < offset + bytes; at += pageBytes) here.add(Math.floor(at / pageBytes))
  }
  const wanted = pagesOfTheBoot()
  const missing = [...wanted].filter((page) => !here.has(page))
  expect(missing.length / wanted.size, `${missing.length} of ${wanted.size} pages`).toBeLessThan(0.01)
  expect(bytesOf(ahead) / (wanted.size * pageBytes), 'no more than is needed').toBeLessThan(1.1)

  const beforeBoot = (await readsIn(logPath)).length
  await replay(script)
  const late = (await readsIn(logPath)).slice(beforeBoot)
  expect(bytesOf(late) / bytesOf(ahead), `${late.length} reads while it booted`).toBeLessThan(0.01)

  const beforeThird = (await readsIn(logPath)).length
  await replay(await scriptOf(3))
  expect(bytesOf((await readsIn(logPath)).slice(beforeThird)), 'all of it is in memory').toBeLessThan(pageBytes * 64)
})
