/** What real initiators send to a new disk, in their order, and what they need to hear. */
import { expect, test } from 'vitest'
import { createMemoryDevice } from '../block/memory.ts'
import { createDeviceServer } from './device-server.ts'
import { hex, Initiator, outcomeOf, toHex } from './testing/recorded-task.ts'
import initiators from './vectors/initiators.json' with { type: 'json' }

test.each(initiators)('$initiator', async ({ commands }) => {
  const device = createMemoryDevice(512 * 16384)
  const server = createDeviceServer({
    targetName: 'iqn.2026-01.lab.boot:full',
    disks: [{ device, serialNumber: 'golden' }],
  })
  const initiator = new Initiator(server)
  // Logged in anew: the power-on attention is there again.
  server.attach(initiator.nexus)
  for (const { cdb, outcome } of commands) {
    const ending = await initiator.run(hex(cdb))
    expect(outcomeOf(ending), cdb).toBe(outcome)
    // tgt's answer in the captures begins with the same bytes.
    if (outcome === '6/2900') expect(toHex(ending.sense.subarray(0, 14))).toBe('700006000000000a000000002900')
  }
})
