import { expect, test } from 'vitest'
import { VirtualClock } from '../../test/simulation/clock.ts'
import { parseMac } from '../base/address.ts'
import { Fleet } from '../fleet/fleet.ts'
import { namingAuthorityDefault } from '../fleet/names.ts'
import { MemoryFleetStore } from '../fleet/store.ts'
import { Encounters, waitingMachinesMax } from './encounters.ts'
import type { EventStream } from './event-stream.ts'

test('who invents MAC addresses fills no memory, and the machine that came last is still told of once', () => {
  const assignment = { image: 'lab', version: undefined, clonePolicy: undefined }
  const fleet = new Fleet(
    { policy: 'ask', namingAuthority: namingAuthorityDefault, assignment, transport: 'auto' },
    // Remembers nobody, so that the test is not about the store.
    Object.assign(new MemoryFleetStore(), { undecidedCount: () => 0 }),
    (byteCount) => new Uint8Array(byteCount),
  )
  const events = { emit: () => true } as unknown as EventStream
  const encounters = new Encounters({ fleet, events, clock: new VirtualClock() })
  const come = (index: number): boolean => {
    const mac = parseMac(`02${index.toString(16).padStart(10, '0')}`) ?? ''
    return encounters.waits(encounters.meet({ mac, uuid: undefined, serial: undefined }), '192.168.77.66')
  }
  for (let index = 0; index < waitingMachinesMax + 100; index++) expect(come(index)).toBe(true)
  expect(encounters.waitingCount).toBe(waitingMachinesMax)
  expect(come(waitingMachinesMax + 99)).toBe(false)
})
