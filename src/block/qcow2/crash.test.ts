/**
 * Goal: after a power cut at any instant everything flushed is there, nothing else has changed, and no table is wrong.
 * Method: a simulated disk that does all that its port allows (late, in pieces, in any order) and keeps any mixture of its
 * unsynced sectors; a failing run prints its seed. Disks that break the port's promises must be found out.
 * SLIPWAY_CRASH_RUNS sets how many lives are lived in all, SLIPWAY_CRASH_SEED where they begin.
 */
import { constants, deflateRawSync, inflateRawSync, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import type { LifeShape, Packing } from '../testing/life-shapes.ts'
import { runPowerCut } from '../testing/power-cut.ts'
import type { Breach } from '../testing/simulated-file.ts'

const runs = Number(process.env['SLIPWAY_CRASH_RUNS'] ?? 2000)
const firstSeed = Number(process.env['SLIPWAY_CRASH_SEED'] ?? 1)

/** At once: what a thread pool answers would not follow from the seed. */
const packing: Packing = {
  compression: {
    inflateRaw(source, target) {
      const output = inflateRawSync(source, { finishFlush: constants.Z_SYNC_FLUSH })
      target.set(output.subarray(0, target.byteLength))
      return undefined
    },
    unzstd(source, target) {
      target.set(zstdDecompressSync(source).subarray(0, target.byteLength))
      return undefined
    },
  },
  pack: (cluster, method) => new Uint8Array(method === 'zstd' ? zstdCompressSync(cluster) : deflateRawSync(cluster)),
}

/** What is lived, and how large a part of all lives it gets. */
const shapes: readonly [name: string, share: number, shape: LifeShape][] = [
  ['of any shape', 0.5, {}],
  ['with clusters of 512 bytes', 0.05, { clusterBits: 9 }],
  ['with clusters of 4 KiB', 0.08, { clusterBits: 12 }],
  ['with clusters of 2 MiB', 0.004, { clusterBits: 21, extendedL2: false, image: 'fresh', diskSectors: 5120 }],
  ['with subclusters of 64 KiB', 0.004, { clusterBits: 21, extendedL2: true, image: 'fresh', diskSectors: 5120 }],
  ['without extended entries', 0.08, { extendedL2: false }],
  ['on a raw image, half of all is discards', 0.08, { below: 'raw', zeroShare: 0.5 }],
  ['on a compressed image', 0.05, { below: 'packed' }],
  ['with compressed clusters of its own', 0.05, { image: 'mixed' }],
  ['with a snapshot', 0.06, { image: 'snapshot' }],
  ['of version 2', 0.04, { image: 'version2' }],
]

test.for(shapes)('lives %s end in power cuts, and none is damaged', { timeout: 3_600_000 }, async ([
  ,
  share,
  shape,
]) => {
  const lives = Math.ceil(runs * share)
  let leaks = 0
  for (let seed = firstSeed; seed < firstSeed + lives; seed++) {
    const { leaksBefore } = await runPowerCut(seed, { packing, shape })
    if (leaksBefore > 0) leaks++
  }
  // If nothing ever leaked, the cuts would not have hit what they are for.
  if (lives >= 50) expect(leaks).toBeGreaterThan(lives / 50)
})

test.for<[Breach, LifeShape]>([
  ['growCuts', { image: 'fresh', diskSectors: 400 }],
  ['writeEndsEarly', {}],
  ['punchEndsEarly', { image: 'fresh', zeroShare: 0.5 }],
  ['syncEndsEarly', {}],
])('a disk that breaks a promise is found out: %s', { timeout: 600_000 }, async ([breach, shape]) => {
  let found: unknown
  for (let seed = 1; seed <= 300 && found === undefined; seed++) {
    await runPowerCut(seed, { packing, shape, breach }).catch((error: unknown) => {
      found = error
    })
  }
  expect(String(found)).toMatch(/^Error: seed \d+/)
})
