/**
 * Goal: after a power cut at any instant everything flushed is there, nothing else has changed, and no table is wrong.
 * Method: a simulated disk that keeps any mixture of its unsynced sectors; a failing run prints its seed.
 * SLIPWAY_CRASH_RUNS sets how many lives are lived, SLIPWAY_CRASH_SEED where they begin.
 */
import { expect, test } from 'vitest'
import { nodeCompression } from '../../host/compression.ts'
import { runPowerCut } from '../testing/power-cut.ts'

const runs = Number(process.env['SLIPWAY_CRASH_RUNS'] ?? 120)
const firstSeed = Number(process.env['SLIPWAY_CRASH_SEED'] ?? 1)

test(`${runs} lives end in a power cut, and none is damaged by it`, { timeout: 3_600_000 }, async () => {
  let leaks = 0
  for (let seed = firstSeed; seed < firstSeed + runs; seed++) {
    const { leaksBefore } = await runPowerCut(seed, nodeCompression)
    if (leaksBefore > 0) leaks++
  }
  // If nothing ever leaked, the cuts would not have hit what they are for.
  if (runs >= 100) expect(leaks).toBeGreaterThan(runs / 50)
})
