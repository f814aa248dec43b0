/**
 * Goal: while HTTPS is down no machine whose iPXE has it gets its secrets otherwise; it waits, and goes on when HTTPS is back.
 * Method: the desk with a fleet in memory, asked as a machine asks.
 */
import { expect, test } from 'vitest'
import { Fleet } from '../fleet/fleet.ts'
import { namingAuthorityDefault } from '../fleet/names.ts'
import { systemClock } from '../host/clock.ts'
import { openFleetStore } from '../host/fleet-store.ts'
import { systemHash } from '../host/hash.ts'
import { createLog } from '../host/log.ts'
import { scryptPasswords } from '../host/password.ts'
import { systemRandom } from '../host/random.ts'
import { systemUnpacker } from '../host/unpack.ts'
import type { HttpRequest } from '../http/policy.ts'
import { Journal } from '../journal/journal.ts'
import { forgetfulJournalStore } from '../journal/store.ts'
import { BootDesk } from './boot-desk.ts'
import { EventStream } from './event-stream.ts'
import { FirmwareHttps } from './firmware-https.ts'
import { LinuxDesk } from './linux-desk.ts'
import { ProofDesk } from './proof-desk.ts'
import { Roster } from './roster.ts'

const mac = '52:54:00:77:00:10'
const path = '/boot/52-54-00-77-00-10.ipxe'

test('a machine known to have HTTPS waits while it is down, is one event, and is sent there when it is back', async () => {
  let httpsHost: string | undefined
  const store = openFleetStore(':memory:')
  const fleet = new Fleet(
    {
      policy: 'ask',
      namingAuthority: namingAuthorityDefault,
      assignment: { image: 'lab', version: undefined, clonePolicy: undefined },
      transport: 'auto',
    },
    store,
    (bytes) => systemRandom.bytes(bytes),
  )
  const journal = new Journal(forgetfulJournalStore, () => Date.now())
  const happened: string[] = []
  journal.subscribe((event) => happened.push(event.kind === 'held' ? `held: ${event.reason}` : event.kind))
  const roster = new Roster(systemClock, () => undefined)
  const events = new EventStream(journal, systemClock, createLog('silent'), () => undefined)
  const desk = new BootDesk({
    fleet,
    roster,
    events,
    loaders: { known: [], entries: [], find: () => undefined },
    clock: systemClock,
    ports: { dhcp: 67, pxe: 4011, tftp: 69, http: 80, https: 443, proof: 8443, iscsi: 3260 },
    chap: 'mutual',
    proofs: new ProofDesk({ proofs: store.proofs, passwords: scryptPasswords, events, clock: systemClock }),
    httpsHost: () => httpsHost,
    firmwareTrustsUs: () => false,
    firmwareHttps: new FirmwareHttps(systemClock, () => {}),
    willBoot: () => {},
    noLoaderFor: () => undefined,
    startOf: () => 'disk',
    linux: new LinuxDesk({
      fleet,
      openDisk: () => Promise.reject(new Error('its script does not look')),
      clock: systemClock,
      hash: systemHash,
      unpacker: systemUnpacker,
      chap: 'mutual',
      portal: (address) => ({ address, port: 3260 }),
    }),
    storage: undefined,
  })
  const ask = async (query: Readonly<Record<string, string>> = {}, secure = false): Promise<string> => {
    const request: HttpRequest = {
      from: { address: '192.0.2.66', port: 999 },
      local: { address: '192.0.2.1', port: secure ? 443 : 80 },
      secure,
      certificate: undefined,
      method: 'GET',
      path,
      query: new Map(Object.entries(query)),
      headers: new Map(),
      body: new Uint8Array(0),
    }
    const { body } = await desk.serve(request)
    return body?.kind === 'text' ? body.text : ''
  }
  fleet.meet({ mac, uuid: undefined, serial: undefined }, 0)
  const machine = fleet.admit(mac, 0)
  fleet.loaderTold(machine, true)

  const holdsSecrets = /^set password \S{16}$/m
  for (const query of [{}, { poll: '1' }]) {
    const script = await ask(query)
    expect(script).toContain('goes on by HTTPS')
    expect(script).toMatch(/^chain .*http:.*&poll=/m)
    expect(script).not.toMatch(holdsSecrets)
  }
  expect(happened.filter((each) => each.startsWith('held'))).toEqual([
    'held: its script goes by HTTPS, which is not served now',
  ])
  httpsHost = '192.0.2.1'
  const sent = await ask({ poll: '2' })
  expect(sent).toMatch(/^chain .*https:\/\/192\.0\.2\.1\/boot\/52-54-00-77-00-10\.ipxe/m)
  expect(sent).not.toMatch(holdsSecrets)
  // Who has not waited asks by HTTP in its name.
  expect(await ask()).toContain('gets its script by HTTPS only')
  expect(await ask({}, true)).toMatch(holdsSecrets)
  events.close()
})
