/** Every plain layer against the contract: memory, raw file, read-only, ephemeral; on disks that answer at once and late. */
import { seededRandom } from '../base/random.ts'
import { deviceContract, patterned } from './device.contract.ts'
import { openRawDevice } from './file.ts'
import { createMemoryDevice } from './memory.ts'
import { createMemoryFile } from './memory-file.ts'
import { createOverlay } from './overlay.ts'
import { readOnlyDevice } from './read-only.ts'
import { SimulatedFile } from './testing/simulated-file.ts'

const diskBytes = 300 * 1024 + 512

deviceContract('memory', async (seed) => {
  const content = patterned(diskBytes, seed)
  return { device: createMemoryDevice(content.slice()), content }
})

deviceContract('read-only memory, which lends', async (seed) => {
  const content = patterned(diskBytes, seed)
  return { device: createMemoryDevice(content.slice(), { readOnly: true }), content }
})

deviceContract('a read-only view', async (seed) => {
  const content = patterned(diskBytes, seed)
  return { device: readOnlyDevice(createMemoryDevice(content.slice())), content }
})

for (const holes of [true, false]) {
  deviceContract(`a raw file ${holes ? 'with' : 'without'} holes, late`, async (seed) => {
    const content = patterned(diskBytes, seed)
    const file = new SimulatedFile({ content, random: seededRandom(seed), holes })
    return { device: await openRawDevice(file), content }
  })
}

deviceContract('a raw file with a part of a block at its end', async (seed) => {
  const content = new Uint8Array(diskBytes)
  content.set(patterned(diskBytes - 300, seed))
  const file = new SimulatedFile({ content: content.slice(0, diskBytes - 300) })
  return { device: await openRawDevice(file), content }
})

deviceContract('a raw file with blocks of 4096', async (seed) => {
  const content = new Uint8Array(301 * 1024 + 3072)
  content.set(patterned(diskBytes, seed))
  return {
    device: await openRawDevice(new SimulatedFile({ content: content.slice(0, diskBytes) }), { blockBytes: 4096 }),
    content,
  }
})

deviceContract('an ephemeral layer in memory over a file that answers late', async (seed) => {
  const content = patterned(diskBytes, seed)
  const file = new SimulatedFile({ content, random: seededRandom(seed), readOnly: true })
  const golden = await openRawDevice(file, { readOnly: true })
  return { device: createOverlay({ golden, changes: createMemoryFile(2 * diskBytes) }), content }
})

deviceContract('an ephemeral layer in a file that answers late', async (seed) => {
  const content = patterned(diskBytes, seed)
  const golden = createMemoryDevice(content.slice(), { readOnly: true })
  const changes = new SimulatedFile({ random: seededRandom(seed) })
  return { device: createOverlay({ golden, changes }), content }
})

deviceContract('an ephemeral layer where both sides answer late and nothing can be punched', async (seed) => {
  const content = patterned(diskBytes, seed)
  const random = seededRandom(seed)
  const golden = await openRawDevice(new SimulatedFile({ content, random }), { readOnly: true })
  return { device: createOverlay({ golden, changes: new SimulatedFile({ random, holes: false }) }), content }
})
