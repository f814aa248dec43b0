/** Goal: who asks in a machine's name gets nothing unseen. Method: the desk over a real fleet and journal, asked by HTTP. */
import { expect, test } from 'vitest'
import { VirtualClock } from '../../test/simulation/clock.ts'
import { parseMac } from '../base/address.ts'
import { Fleet } from '../fleet/fleet.ts'
import { offeredCredentialsMax } from '../fleet/limits.ts'
import { namingAuthorityDefault } from '../fleet/names.ts'
import { MemoryFleetStore } from '../fleet/store.ts'
import type { HttpRequest } from '../http/policy.ts'
import type { BootEvent } from '../journal/events.ts'
import { Journal } from '../journal/journal.ts'
import { forgetfulJournalStore } from '../journal/store.ts'
import { BootDesk } from './boot-desk.ts'
import { defaultPorts } from './config.ts'
import { floodWindowMs, reportLimits, trustOfAddressLimits } from './event-flood.ts'
import { EventStream } from './event-stream.ts'
import { FirmwareHttps } from './firmware-https.ts'
import type { LinuxDesk } from './linux-desk.ts'
import type { ProofDesk } from './proof-desk.ts'
import { Roster } from './roster.ts'

const mac = '52:54:00:77:00:10'
const uuid = '33221100-5544-7766-8899-aabbccddeeff'
const other = '11111111-2222-3333-4444-555555555555'
const third = '99999999-2222-3333-4444-555555555555'
const victim = '192.168.77.100'
const elsewhere = '192.168.77.66'

type Desk = {
  readonly fleet: Fleet
  readonly clock: VirtualClock
  readonly events: EventStream
  readonly happened: readonly BootEvent[]
  /** Asks for the machine's script and says what came. */
  ask(said?: { uuid?: string; from?: string; mac?: string }): { holdsSecrets: boolean; text: string }
  report(query: Record<string, string>, from?: string): void
  count(kind: BootEvent['kind']): number
}

/** The machine was admitted with `uuid`. */
function deskWith(): Desk {
  const clock = new VirtualClock()
  const assignment = { image: 'lab', version: undefined, clonePolicy: undefined }
  let seed = 0
  const fleet = new Fleet(
    { policy: 'ask', namingAuthority: namingAuthorityDefault, assignment, transport: 'auto' },
    new MemoryFleetStore(),
    (byteCount) => Uint8Array.from({ length: byteCount }, (_, index) => (index * 7 + seed++ * 13) & 0xff),
  )
  fleet.meet({ mac, uuid, serial: undefined }, clock.wallMs())
  fleet.admit(mac, clock.wallMs())
  const happened: BootEvent[] = []
  const journal = new Journal(forgetfulJournalStore, () => clock.wallMs())
  journal.subscribe((event) => happened.push(event))
  const roster = new Roster(clock, () => undefined)
  const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined }
  const events = new EventStream(journal, clock, log, (address) => roster.macOf(address))
  const desk = new BootDesk({
    fleet,
    roster,
    events,
    loaders: { known: [], entries: [], find: () => undefined },
    clock,
    ports: defaultPorts,
    chap: 'mutual',
    proofs: { certificate: () => ({ kind: 'none' }) } as unknown as ProofDesk,
    httpsHost: () => undefined,
    firmwareTrustsUs: () => false,
    firmwareHttps: new FirmwareHttps(clock, () => undefined),
    willBoot: () => undefined,
    noLoaderFor: () => undefined,
    startOf: () => 'disk',
    linux: {} as unknown as LinuxDesk,
    storage: undefined,
  })
  const get = (path: string, query: Record<string, string>, address: string): string => {
    const request: HttpRequest = {
      from: { address, port: 999 },
      local: { address: '192.168.77.1', port: 80 },
      secure: false,
      method: 'GET',
      path,
      query: new Map(Object.entries(query)),
      headers: new Map(),
    } as unknown as HttpRequest
    const answer = desk.serve(request)
    if (answer instanceof Promise || answer.body?.kind !== 'text') throw new Error('a text was expected, at once')
    return answer.body.text
  }
  return {
    fleet,
    clock,
    events,
    happened,
    ask: (said = {}) => {
      const path = `/boot/${(said.mac ?? mac).replaceAll(':', '-')}.ipxe`
      const text = get(path, said.uuid === undefined ? {} : { uuid: said.uuid }, said.from ?? victim)
      return { holdsSecrets: text.includes('set password'), text }
    },
    report: (query, from = elsewhere) => void get(`/report/${mac.replaceAll(':', '-')}`, query, from),
    count: (kind) => happened.filter((event) => event.kind === kind).length,
  }
}

test('who leaves the UUID out of a machine that has one gets no secrets, and it is an alarm', () => {
  const { ask, happened, count } = deskWith()
  expect(ask({ uuid }).holdsSecrets).toBe(true)
  const { holdsSecrets, text } = ask({ from: elsewhere })
  expect(holdsSecrets).toBe(false)
  expect(text).toContain('Another board was admitted with this MAC address.')
  expect(text).toContain('with --uuid none')
  expect(happened).toContainEqual(
    expect.objectContaining({ kind: 'identityAlarm', knownUuid: uuid, seenUuid: 'none', address: elsewhere }),
  )
  ask({ from: elsewhere })
  expect(count('identityAlarm')).toBe(1)
  expect(ask({ uuid }).holdsSecrets).toBe(true)
})

test('another board is not told by which UUID it would have been let in, only how a person lets it in', () => {
  const { ask } = deskWith()
  const { holdsSecrets, text } = ask({ uuid: other, from: elsewhere })
  expect(holdsSecrets).toBe(false)
  expect(text).not.toContain(uuid)
  expect(text).toContain(`slipway admit ${mac}`)
  expect(text).toContain(`with --uuid ${other}`)
})

test('a machine that a person admitted as one without a UUID goes by its MAC address', () => {
  const { ask, fleet } = deskWith()
  ask()
  fleet.admit(mac, 0, 'none')
  // An early stage (U-Boot) may tell one all the same.
  expect(fleet.meet({ mac, uuid: other, serial: undefined }, 0)).toMatchObject({ standing: 'admitted', notices: [] })
  expect(ask().holdsSecrets).toBe(true)
})

test('that the machine itself asks while another board waits is nobody admitting it; that a person did is told once', () => {
  const { ask, count, fleet } = deskWith()
  for (let round = 0; round < 100; round++) {
    expect(ask({ uuid: other, from: elsewhere }).holdsSecrets).toBe(false)
    expect(ask({ uuid }).holdsSecrets).toBe(true)
  }
  expect(count('admitted')).toBe(0)
  fleet.admit(mac, 0, other)
  for (let round = 0; round < 3; round++) ask({ uuid: other })
  expect(count('admitted')).toBe(1)
})

test('after an alarm it must be said which board is admitted; an impostor that was dismissed is an alarm again', () => {
  const { ask, count, fleet } = deskWith()
  ask({ uuid: other, from: elsewhere })
  ask({ uuid: third, from: elsewhere })
  fleet.refuse(mac, 1)
  expect(() => fleet.admit(mac, 2)).toThrow(`two boards came with ${mac}: UUID ${uuid}, then UUID ${third}`)
  expect(ask({ uuid: third, from: elsewhere }).holdsSecrets).toBe(false)
  fleet.dismiss(mac)
  fleet.admit(mac, 3)
  expect(ask({ uuid }).holdsSecrets).toBe(true)
  const alarmCount = count('identityAlarm')
  expect(ask({ uuid: third, from: elsewhere }).holdsSecrets).toBe(false)
  expect(count('identityAlarm')).toBe(alarmCount + 1)
  fleet.admit(mac, 4, other)
  expect(ask({ uuid: third, from: elsewhere }).holdsSecrets).toBe(false)
  expect(ask({ uuid: other }).holdsSecrets).toBe(true)
})

test("noise in a machine's name keeps no alarm and no script out of the journal", () => {
  const { ask, report, happened, count } = deskWith()
  for (let round = 0; round < 300; round++) report({ step: 'x' })
  expect(count('machineReported')).toBe(reportLimits.perSource)
  expect(happened.filter((event) => event.kind === 'machineReported' && event.mac !== undefined)).toEqual([])
  ask({ uuid: other, from: elsewhere })
  expect(count('identityAlarm')).toBe(1)
  ask({ uuid })
  expect(count('credentialsMinted')).toBe(1)
  expect(happened.at(-1)).toMatchObject({ kind: 'scriptServed', script: 'boot', mac })
})

test('a report counts for the machine when it names a boot that the machine was given', () => {
  const { ask, report, happened } = deskWith()
  const bootId = /boot (\w+) of/.exec(ask({ uuid }).text)?.[1] ?? ''
  report({ step: 'disk-failed', boot: bootId }, victim)
  expect(happened.at(-1)).toMatchObject({ kind: 'machineReported', mac, address: victim })
  report({ step: 'disk-failed', boot: 'k3x9abcd' }, victim)
  expect(happened.at(-1)).toMatchObject({ kind: 'machineReported', mac: undefined, address: victim })
})

test('an alarm that there was no room for is raised again until it is in the journal', async () => {
  const { ask, clock, count } = deskWith()
  // From one address, under many names: all its room is taken.
  for (let index = 0; index < trustOfAddressLimits.perSource; index++) {
    ask({ mac: parseMac(`02${index.toString(16).padStart(10, '0')}`) ?? '', from: elsewhere })
  }
  ask({ uuid: other, from: elsewhere })
  expect(count('identityAlarm')).toBe(0)
  await clock.run(() => false, floodWindowMs)
  ask({ uuid })
  ask({ uuid })
  expect(count('identityAlarm')).toBe(1)
})

test("who asks for a machine's script again and again makes no script worthless but its own", () => {
  const { ask, fleet, clock } = deskWith()
  const bootOf = (text: string): string | undefined => /boot (\w+) of/.exec(text)?.[1]
  const own = bootOf(ask({ uuid }).text)
  for (let round = 0; round < 3 * offeredCredentialsMax; round++) ask({ uuid, from: elsewhere })
  const offered = fleet.candidatesFor('iqn.2026-01.internal.slipway:disk.525400770010', clock.wallMs())
  expect(offered).toHaveLength(offeredCredentialsMax)
  expect(offered.map(({ bootId }) => bootId)).toContain(own)
})
