/**
 * One life of a clone that ends in a power cut. Everything follows from the seed: the geometry, the operations, what the
 * disk answers late, where it fails, and which of its unsynced sectors it kept.
 *
 * Every sector written carries a number of its own, so that afterwards a sector can be told to hold what was flushed
 * last, or something written since; anything else is a fault.
 */
import { OperationError } from '../../base/errors.ts'
import { seededRandom } from '../../base/random.ts'
import type { BlockDevice } from '../device.ts'
import { checkQcow2 } from '../qcow2/check.ts'
import { openQcow2, type Qcow2Options, readHeader } from '../qcow2/open.ts'
import { Histories, sectorBytes } from './histories.ts'
import { type Birth, bear, type LifeShape, type Packing } from './life-shapes.ts'
import type { Breach, SimulatedFile, SimulatedFileOptions } from './simulated-file.ts'

export type PowerCutOptions = {
  readonly packing: Packing
  readonly shape?: LifeShape
  /** How often the power goes, each time followed by a repair and more work. */
  readonly cuts?: number
  /** The disk does not keep to its port: the life must end badly, sooner or later. */
  readonly breach?: Breach
}

export type PowerCut = {
  /** The file as the disk kept it, and what it may have leaked. */
  readonly file: SimulatedFile
  readonly leaksBefore: number
}

/** Lives, dies, and judges what is left. @throws {Error} saying what is wrong with which sector */
export async function runPowerCut(seed: number, options: PowerCutOptions): Promise<PowerCut> {
  const random = seededRandom(seed)
  const birth = await bear(random, options.packing, options.shape ?? {})
  const disk: SimulatedFileOptions = {
    random,
    lateShare: random(),
    holes: random() < 0.9,
    ...(options.breach === undefined ? {} : { breach: options.breach }),
  }
  let file = birth.file.fork(disk)
  const life = new Life(seed, random, birth)
  let leaksBefore = 0
  for (let cut = 0; cut < (options.cuts ?? 2); cut++) {
    if (random() < 0.15) file.capacityBytes = file.usedBytes + Math.floor(random() * 200_000)
    if (cut > 0 && random() < 0.3) file = await life.dieOpening(file, disk)
    await life.live(file)
    file = file.crash(random, disk)
    await settle()
    leaksBefore = await life.judge(file)
  }
  return { file, leaksBefore }
}

class Life {
  readonly #what: string
  readonly #random: () => number
  readonly #birth: Birth
  readonly #histories: Histories
  readonly #sectors: number
  #tag = 1
  #inFlight = 0
  #fault: unknown

  constructor(seed: number, random: () => number, birth: Birth) {
    this.#what = `seed ${seed}`
    this.#random = random
    this.#birth = birth
    this.#histories = new Histories(birth.tags)
    this.#sectors = birth.tags.length
  }

  /** Many operations at once, never two on one sector; returns while some are still under way. */
  async live(file: SimulatedFile): Promise<void> {
    const random = this.#random
    const device = await openQcow2(file, this.#birth.options())
    const failsAt = random() < 0.2 ? Math.floor(random() * 40) : -1
    const failing = { failWrites: random() < 0.7, failReads: random() < 0.5, failSyncs: random() < 0.3 }
    this.#inFlight = 0
    for (let step = 5 + Math.floor(random() * 60); step > 0; step--) {
      if (step === failsAt) Object.assign(file, failing)
      if (step === failsAt - 8) Object.assign(file, { failWrites: false, failReads: false, failSyncs: false })
      while (this.#inFlight > 12) await undefined
      const isFlush = this.#step(device)
      // What a flush has set free is used again only by what comes after it.
      if (isFlush && random() < 0.3) while (this.#inFlight > 0) await undefined
      if (random() < 0.3) await undefined
    }
    for (let i = Math.floor(random() * 60); i > 0; i--) await undefined
    if (this.#fault !== undefined) throw this.#fault
  }

  /** The power goes while an image that was not closed is being repaired. */
  async dieOpening(file: SimulatedFile, disk: SimulatedFileOptions): Promise<SimulatedFile> {
    const opening = openQcow2(file, this.#birth.options()).catch(() => undefined)
    for (let i = Math.floor(this.#random() * 120); i > 0; i--) await undefined
    const after = file.crash(this.#random, disk)
    await opening
    await this.judge(after)
    return after
  }

  /** What is left must be sound and show what it may show, before and after its repair. Returns the leaks before. */
  async judge(file: SimulatedFile): Promise<number> {
    const what = this.#what
    const options = this.#birth.options()
    const dead = file.fork({ readOnly: true })
    const header = await readHeader(dead)
    const report = await checkQcow2(dead, header)
    if (report.errorCount > 0) throw new Error(`${what}: ${report.faults.join('; ')}`)
    const mayLeak = header.dirty || header.version === 2
    if (report.leakCount > 0 && !mayLeak) throw new Error(`${what}: leaks without the dirty bit`)
    const content = await contentOf(dead, options)
    this.#histories.verify(content, what)
    const repaired = file.fork()
    await (await openQcow2(repaired, options)).close()
    const now = await checkQcow2(repaired, await readHeader(repaired))
    if (now.errorCount > 0) throw new Error(`${what}: after the repair: ${now.faults.join('; ')}`)
    if (now.leakCount > 0 && header.version !== 2) throw new Error(`${what}: leaks after the repair`)
    expectEqual(await contentOf(repaired, options), content, `${what}: after the repair`)
    const { snapshot } = this.#birth
    if (snapshot !== undefined) {
      expectEqual(await contentOf(repaired, { ...options, snapshot: '1' }), snapshot, `${what}: the snapshot`)
    }
    return report.leakCount
  }

  /** Begins something. True if that is a flush. */
  #step(device: BlockDevice): boolean {
    const random = this.#random
    const histories = this.#histories
    const choice = random()
    if (choice < 0.12) {
      const durable = histories.flushing()
      this.#begin(
        () => device.flush(),
        (state) => (state === 'done' ? durable() : undefined),
      )
      return true
    }
    const count = random() < 0.4 ? 8 : 1 + Math.floor(random() ** 3 * 300)
    let first = Math.floor(random() * this.#sectors)
    if (count === 8) first -= first % 8
    const sectors = Math.min(count, this.#sectors - first)
    const [offset, bytes] = [first * sectorBytes, sectors * sectorBytes]
    if (choice < 0.24) {
      const verify = histories.reading(first, sectors)
      const target = new Uint8Array(bytes)
      this.#begin(
        () => device.read(offset, target),
        (state) => (state === 'done' ? verify(target, `${this.#what}, read`) : undefined),
      )
      return false
    }
    if (histories.isBusy(first, sectors)) return false
    const isWrite = choice < 1 - (this.#birth.zeroShare ?? 0.2)
    const end = histories.begin(first, sectors, isWrite ? this.#tag : 0)
    if (!isWrite) {
      const mayUnmap = random() < 0.65
      this.#begin(() => device.writeZeroes(offset, bytes, mayUnmap), end)
      return false
    }
    const source = new Uint8Array(bytes)
    new Uint16Array(source.buffer).fill(this.#tag++)
    this.#begin(() => device.write(offset, source), end)
    return false
  }

  #begin(act: () => Promise<void> | undefined, end: (state: 'done' | 'failed') => void): void {
    this.#inFlight++
    const run = async (): Promise<void> => {
      let state: 'done' | 'failed' = 'done'
      try {
        await act()
      } catch (error) {
        if (!(error instanceof OperationError)) throw error
        state = 'failed'
      } finally {
        this.#inFlight--
      }
      end(state)
    }
    run().catch((error: unknown) => {
      this.#fault ??= error
    })
  }
}

async function contentOf(file: SimulatedFile, options: Qcow2Options): Promise<Uint8Array> {
  const device = await openQcow2(file, { ...options, readOnly: true })
  const content = new Uint8Array(device.sizeBytes)
  await device.read(0, content)
  return content
}

function expectEqual(actual: Uint8Array, expected: Uint8Array, what: string): void {
  const [is, should] = [actual, expected].map(({ buffer, byteLength }) => new Uint32Array(buffer, 0, byteLength / 4))
  for (let i = 0; i < expected.byteLength / 4; i++) {
    if (is?.[i] !== should?.[i]) throw new Error(`${what}: sector ${Math.floor((i * 4) / sectorBytes)} has changed`)
  }
}

/** Lets everything that still hangs on the dead disk end. */
async function settle(): Promise<void> {
  for (let i = 0; i < 400; i++) await undefined
}
