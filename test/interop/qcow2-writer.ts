/**
 * A program that writes to a clone until it is killed: `node qcow2-writer.ts CLONE GOLDEN SEED`. What it is about to do and
 * what has ended goes to standard output, a line each, at once:
 *
 *   w ID FIRST COUNT TAG   sectors FIRST.. get TAG (0: are zeroed)     d ID   that has ended
 *   F ID                   a flush begins                              f ID   it has ended well
 */
import { writeSync } from 'node:fs'
import { seededRandom } from '../../src/base/random.ts'
import { openQcow2 } from '../../src/block/qcow2/open.ts'
import { sectorBytes, sectorOf } from '../../src/block/testing/histories.ts'
import { nodeCompression } from '../../src/host/compression.ts'
import { openFile } from '../../src/host/file.ts'

const [clonePath = '', goldenPath = '', seed = '1'] = process.argv.slice(2)
const say = (line: string): void => void writeSync(1, `${line}\n`)
const device = await openQcow2(await openFile(clonePath, 'readWrite'), {
  compression: nodeCompression,
  backing: { resolve: async () => ({ kind: 'file', file: await openFile(goldenPath, 'readOnly') }) },
})
const sectors = device.sizeBytes / sectorBytes
const random = seededRandom(Number(seed))
const busy = new Set<number>()
let id = 0
let inFlight = 0
say('ready')

async function flush(): Promise<void> {
  const own = ++id
  say(`F ${own}`)
  await device.flush()
  say(`f ${own}`)
}

async function change(): Promise<void> {
  const count = random() < 0.5 ? 8 : 1 + Math.floor(random() ** 3 * 600)
  const first = Math.floor(random() * (sectors - count))
  for (let i = first; i < first + count; i++) if (busy.has(i)) return
  for (let i = first; i < first + count; i++) busy.add(i)
  const own = ++id
  const isWrite = random() < 0.85
  const tag = isWrite ? 1 + Math.floor(random() * 39_000) : 0
  say(`w ${own} ${first} ${count} ${tag}`)
  if (isWrite) {
    const source = new Uint8Array(count * sectorBytes)
    for (let i = 0; i < count; i++) source.set(sectorOf(tag), i * sectorBytes)
    await device.write(first * sectorBytes, source)
  } else await device.writeZeroes(first * sectorBytes, count * sectorBytes, random() < 0.7)
  say(`d ${own}`)
  for (let i = first; i < first + count; i++) busy.delete(i)
}

for (;;) {
  inFlight++
  const work = random() < 0.05 ? flush() : change()
  void work.finally(() => {
    inFlight--
  })
  do await new Promise((resolve) => setImmediate(resolve))
  while (inFlight > 16)
}
