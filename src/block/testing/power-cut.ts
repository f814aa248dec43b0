/**
 * One life of a clone that ends in a power cut. Everything follows from the seed: the geometry, the operations, what the
 * disk answers late, and which of its unsynced sectors it kept.
 *
 * Every sector written carries a number of its own, so that afterwards a sector can be told to hold what was flushed
 * last, or something written since; anything else is a fault.
 */
import { OperationError } from '../../base/errors.ts'
import { seededRandom } from '../../base/random.ts'
import type { Compression } from '../../ports/compression.ts'
import type { BlockDevice } from '../device.ts'
import { createMemoryDevice } from '../memory.ts'
import { checkQcow2 } from '../qcow2/check.ts'
import { createClone } from '../qcow2/create.ts'
import { type BackingResolver, openQcow2, readHeader } from '../qcow2/open.ts'
import { Histories, sectorBytes, sectorOf } from './histories.ts'
import { SimulatedFile } from './simulated-file.ts'

const diskSectors = 1024

export type PowerCut = {
  /** The file as the disk kept it. */
  readonly content: Uint8Array
  /** Bytes of the golden image below. */
  readonly golden: Uint8Array
  readonly leaksBefore: number
}

/**
 * Lives, dies, and judges what is left. @throws {Error} saying what is wrong with which sector
 * @param cuts how often the power goes, each time followed by a repair and more work
 */
export async function runPowerCut(seed: number, compression: Compression, cuts: number = 2): Promise<PowerCut> {
  const random = seededRandom(seed)
  const hasGolden = random() < 0.8
  const goldenSectors = Math.ceil(diskSectors * (random() < 0.5 ? 1 : random()))
  const tags = Array.from({ length: diskSectors }, (_, i) => (hasGolden && i < goldenSectors ? 40_000 + i : 0))
  const golden = new Uint8Array(goldenSectors * sectorBytes)
  for (let i = 0; i < goldenSectors; i++) golden.set(sectorOf(40_000 + i), i * sectorBytes)
  const goldenDevice = createMemoryDevice(golden, { readOnly: true })
  const backing: BackingResolver = { resolve: () => Promise.resolve({ kind: 'device', device: goldenDevice }) }
  const options = { compression, backing }

  const extendedL2 = random() < 0.7
  const clusterBits = extendedL2 ? 14 + Math.floor(random() * 4) : 9 + Math.floor(random() * 8)
  const lateShare = random()
  let file = new SimulatedFile({ random, lateShare })
  await createClone(file, {
    sizeBytes: diskSectors * sectorBytes,
    clusterBits,
    extendedL2,
    ...(hasGolden ? { backing: { name: 'golden', format: 'raw' as const } } : {}),
  })
  await file.sync()
  const histories = new Histories(tags)
  let leaksBefore = 0
  let kept: Uint8Array = new Uint8Array(0)
  let tag = 1
  for (let cut = 0; cut < cuts; cut++) {
    if (random() < 0.15) file.capacityBytes = file.usedBytes + Math.floor(random() * 200_000)
    const device = await openQcow2(file, options)
    tag = await work(device, histories, random, tag)
    const after = file.crash(random, { random, lateShare })
    await settle()
    kept = after.content()
    leaksBefore = await judge(seed, kept, histories, options)
    file = after
  }
  return { content: kept, golden, leaksBefore }
}

/** Many operations at once, never two on one sector; returns while some are still under way. */
async function work(device: BlockDevice, histories: Histories, random: () => number, tag: number): Promise<number> {
  const steps = 5 + Math.floor(random() * 60)
  let inFlight = 0
  const begin = (act: () => Promise<void> | undefined, end: (state: 'done' | 'failed') => void): void => {
    inFlight++
    void (async () => {
      try {
        await act()
        end('done')
      } catch (error) {
        if (!(error instanceof OperationError)) throw error
        end('failed')
      } finally {
        inFlight--
      }
    })()
  }
  for (let step = 0; step < steps; step++) {
    while (inFlight > 12) await undefined
    const choice = random()
    if (choice < 0.12) {
      const durable = histories.flushing()
      begin(
        () => device.flush(),
        (state) => (state === 'done' ? durable() : undefined),
      )
      if (random() < 0.5) while (inFlight > 0) await undefined
      continue
    }
    const count = random() < 0.4 ? 8 : 1 + Math.floor(random() ** 3 * 300)
    let first = Math.floor(random() * diskSectors)
    if (count === 8) first -= first % 8
    const sectors = Math.min(count, diskSectors - first)
    if (histories.isBusy(first, sectors)) continue
    const isWrite = choice < 0.8
    const end = histories.begin(first, sectors, isWrite ? tag : 0)
    if (isWrite) {
      const source = new Uint8Array(sectors * sectorBytes)
      for (let i = 0; i < sectors; i++) source.set(sectorOf(tag), i * sectorBytes)
      tag++
      begin(() => device.write(first * sectorBytes, source), end)
    } else {
      begin(() => device.writeZeroes(first * sectorBytes, sectors * sectorBytes, choice < 0.93), end)
    }
    if (random() < 0.3) await undefined
  }
  for (let i = Math.floor(random() * 40); i > 0; i--) await undefined
  return tag
}

async function judge(
  seed: number,
  kept: Uint8Array,
  histories: Histories,
  options: { readonly compression: Compression; readonly backing: BackingResolver },
): Promise<number> {
  const file = new SimulatedFile({ content: kept, readOnly: true })
  const header = await readHeader(file)
  const report = await checkQcow2(file, header)
  if (report.errorCount > 0) throw new Error(`seed ${seed}: ${report.faults.join('; ')}`)
  if (report.leakCount > 0 && !header.dirty) throw new Error(`seed ${seed}: leaks without the dirty bit`)
  const device = await openQcow2(file, { ...options, readOnly: true })
  const content = new Uint8Array(device.sizeBytes)
  await device.read(0, content)
  histories.verify(content, `seed ${seed}`)
  const repaired = new SimulatedFile({ content: kept })
  await (await openQcow2(repaired, options)).close()
  const now = await checkQcow2(repaired, await readHeader(repaired))
  if (now.errorCount > 0 || now.leakCount > 0) throw new Error(`seed ${seed}: not clean after the repair`)
  const again = new Uint8Array(device.sizeBytes)
  const reopened = await openQcow2(repaired, { ...options, readOnly: true })
  await reopened.read(0, again)
  for (let i = 0; i < again.byteLength; i++) {
    if (again[i] !== content[i]) throw new Error(`seed ${seed}: the repair changed byte ${i}`)
  }
  return report.leakCount
}

/** Lets everything that still hangs on the dead disk end. */
async function settle(): Promise<void> {
  for (let i = 0; i < 400; i++) await undefined
}
