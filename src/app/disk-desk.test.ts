import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { encodeBootTrace } from '../block/boot-trace.ts'
import { createBlockCache } from '../block/cache.ts'
import { Fleet } from '../fleet/fleet.ts'
import type { ClonePolicy } from '../fleet/machine.ts'
import { initiatorNameOf, namingAuthorityDefault, targetNameOf } from '../fleet/names.ts'
import { MemoryFleetStore } from '../fleet/store.ts'
import { systemClock } from '../host/clock.ts'
import { openJournalStore } from '../host/journal-store.ts'
import { lockFile } from '../host/lock.ts'
import { createLog } from '../host/log.ts'
import { systemRandom } from '../host/random.ts'
import type { SessionIdentity } from '../iscsi/policy.ts'
import type { BootEvent } from '../journal/events.ts'
import { Journal } from '../journal/journal.ts'
import type { Clock } from '../ports/clock.ts'
import type { DeviceServer, Nexus, Task } from '../scsi/task.ts'
import { BootTraces, describeTrace } from './boot-traces.ts'
import { resetClone } from './clone-commands.ts'
import { Clones } from './clones.ts'
import { DiskDesk } from './disk-desk.ts'
import { EventStream } from './event-stream.ts'
import { findVersion, Library } from './library.ts'
import { ImageShelf } from './shelf.ts'

const folder = mkdtempSync(join(tmpdir(), 'slipway-desk-'))
afterAll(() => rmSync(folder, { recursive: true }))
const mac = '52:54:00:77:00:10'
const targetName = targetNameOf(namingAuthorityDefault, mac)
const initiatorName = initiatorNameOf(namingAuthorityDefault, mac)

/** Two versions of one image: 1s and 2s. */
async function libraryAt(state: string, imageBytes = 1 << 20): Promise<Library> {
  const library = await Library.open(join(folder, state))
  for (const version of [1, 2]) {
    const source = join(folder, `${state}-${version}.img`)
    writeFileSync(source, Buffer.alloc(imageBytes, version))
    const signal = new AbortController().signal
    await library.add({ name: 'lab', source, sha256: undefined, signal, onProgress: () => undefined })
  }
  return library
}

type Server = {
  readonly desk: DiskDesk
  readonly fleet: Fleet
  readonly happened: BootEvent[]
  close(): Promise<void>
}

/** What `slipway up lab` has around its disks; started again over the same state as often as one likes. */
function serverOver(
  library: Library,
  store: MemoryFleetStore,
  clonePolicy: ClonePolicy | undefined,
  clock: Clock = systemClock,
): Server {
  const assignment = { image: 'lab', version: undefined, clonePolicy }
  const terms = { policy: 'all', namingAuthority: namingAuthorityDefault, assignment, transport: 'auto' } as const
  const fleet = new Fleet(terms, store, (bytes) => systemRandom.bytes(bytes))
  const cache = createBlockCache(1 << 20)
  const shelf = new ImageShelf({ library, filePath: undefined, cache })
  const happened: BootEvent[] = []
  const journalStore = openJournalStore(join(library.directory, '../journal.db'))
  const journal = new Journal(journalStore, () => systemClock.wallMs())
  journal.subscribe((event) => happened.push(event))
  const events = new EventStream(journal, systemClock, createLog('warn'), () => undefined)
  let names = 0
  const traces = new BootTraces({
    shelf,
    cache,
    directory: join(library.directory, '../traces'),
    clock: systemClock,
    log: createLog('error'),
    emit: (happening) => events.emit({}, happening),
  })
  const desk = new DiskDesk({
    fleet,
    clones: new Clones(join(library.directory, '../clones'), shelf, traces),
    shelf,
    traces,
    bootDisks: library.store,
    policyOf: (image) => library.store.policyOf(image) ?? 'persistent',
    nextName: () => `boot${sessions}n${names++}`,
    events,
    clock,
    chap: 'mutual',
  })
  const close = async (): Promise<void> => {
    await desk.close()
    await traces.close()
    await shelf.close()
    events.flush()
    journalStore.close()
  }
  return { desk, fleet, happened, close }
}

type Session = {
  readonly identity: SessionIdentity
  readonly nexus: Nexus
  readonly deviceServer: DeviceServer
  readonly isUnwanted: boolean
}
let sessions = 0

/** A login with the credentials of a boot: the newest one's, or those of `user`. */
async function login({ desk, fleet }: Server, user: string, whoseIsid = ''): Promise<Session> {
  const sessionId = ++sessions
  const isid = `${whoseIsid}${sessionId.toString(16).padStart(12 - whoseIsid.length, '0')}`
  const remote = { address: '192.0.2.1', port: 1 }
  const attempt = { initiatorName, targetName, isid, remote, local: remote } as never
  const verdict = await desk.resolve(attempt)
  if (verdict.kind !== 'accept') throw new Error(`refused: ${JSON.stringify(verdict)}`)
  const nexus = { initiatorPort: `${initiatorName},i,0x${isid}`, targetPort: 1, initiatorName, isid }
  verdict.deviceServer.attach(nexus)
  const identity = { sessionId, initiatorName, targetName, isid, remote, label: mac }
  const unwanted = desk.noteOpened(identity, user)
  expect(fleet.machine(mac)?.decision).not.toBe('refused')
  return { identity, nexus, deviceServer: verdict.deviceServer, isUnwanted: unwanted?.(identity) === true }
}

function logout({ desk }: Server, session: Session): void {
  session.deviceServer.detach(session.nexus)
  desk.noteClosed(session.identity)
}

type Ended = { readonly status: 'good' | number; readonly bytes: Uint8Array; readonly sense?: string }

/** READ(10) or WRITE(10) of one block. */
function command(session: Session, opcode: number, block: number, dataOut = new Uint8Array(0)): Promise<Ended> {
  const cdb = new Uint8Array(16)
  cdb[0] = opcode
  new DataView(cdb.buffer).setUint32(2, block)
  cdb[8] = 1
  return execute(session, cdb, dataOut)
}

function execute(session: Session, cdb: Uint8Array, dataOut = new Uint8Array(0)): Promise<Ended> {
  const bytes = new Uint8Array(512)
  return new Promise((resolve) => {
    const task: Task = {
      nexus: session.nexus,
      lun: new Uint8Array(8),
      cdb,
      attribute: 'simple',
      dataOut: [dataOut],
      dataOutBytes: dataOut.byteLength,
      dataInBytesMax: dataOut.byteLength === 0 ? 512 : 0,
      aborted: false,
      reserve: () => [bytes],
      lend: (lent) => bytes.set(lent),
      good: () => resolve({ status: 'good', bytes }),
      fail: (status, sense) => {
        // The first command after a login hears of the power on (SAM-5 §5.14), as after a real one.
        if ((sense[2] ?? 0) % 16 === 6) resolve(execute(session, cdb, dataOut))
        else resolve({ status, bytes, sense: `${(sense[2] ?? 0) % 16}/${Buffer.from(sense).toString('hex', 12, 14)}` })
      },
    }
    session.deviceServer.execute(task)
  })
}

const read = async (session: Session): Promise<number> => (await command(session, 0x28, 8)).bytes[0] ?? -1
const write = async (session: Session, value: number): Promise<'good' | number> =>
  (await command(session, 0x2a, 8, new Uint8Array(512).fill(value))).status
const begin = ({ fleet }: Server): string => fleet.offerCredentials(mac, systemClock.wallMs()).initiator.user
const clonesIn = (library: Library): string[] => readdirSync(join(library.directory, '../clones'))

test('ephemeral: each boot has a fresh clone of what is published; its sessions and a restart keep it', async () => {
  const library = await libraryAt('ephemeral')
  const store = new MemoryFleetStore()
  const one = serverOver(library, store, 'ephemeral')
  const first = begin(one)
  const firmware = await login(one, first)
  expect(await read(firmware)).toBe(1)
  expect(await write(firmware, 7)).toBe('good')
  logout(one, firmware)
  library.store.publish('lab', 2, 1)
  const system = await login(one, first)
  expect(await read(system), 'the second login of a boot has the same disk').toBe(7)
  await one.close()

  const two = serverOver(library, store, 'ephemeral')
  const again = await login(two, first)
  expect(await read(again), 'after a restart of the server too').toBe(7)
  const second = begin(two)
  expect(await read(again), 'a script that was handed out changes nothing').toBe(7)
  const next = await login(two, second)
  expect(await read(next), 'the next boot is fresh, and of the published version').toBe(2)
  expect(await read(again), 'and the old session never sees it').toBe(7)
  expect(two.happened.filter(({ kind }) => kind === 'cloneReady')).toMatchObject([
    { image: 'lab@1', policy: 'ephemeral' },
    { image: 'lab@2', policy: 'ephemeral' },
  ])
  logout(two, again)
  logout(two, next)
  await login(two, begin(two))
  await two.close()
  expect(clonesIn(library), 'nothing of earlier boots is kept').toHaveLength(1)
  library.close()
})

test('persistent: kept from boot to boot, and on the version it was made of', async () => {
  const library = await libraryAt('persistent')
  const server = serverOver(library, new MemoryFleetStore(), 'persistent')
  const session = await login(server, begin(server))
  await write(session, 9)
  logout(server, session)
  library.store.publish('lab', 2, 1)
  const next = await login(server, begin(server))
  expect(await read(next)).toBe(9)
  expect((await command(next, 0x28, 100)).bytes[0]).toBe(1)
  await server.close()
  expect(clonesIn(library)).toEqual(['52-54-00-77-00-10.qcow2'])
  expect(existsSync(join(library.directory, '../images'))).toBe(true)
  library.close()
})

test('read-only: writes are refused, and the version stays for as long as the boot lasts', async () => {
  const library = await libraryAt('readonly')
  const store = new MemoryFleetStore()
  const one = serverOver(library, store, 'readOnly')
  const first = begin(one)
  const session = await login(one, first)
  expect(await read(session)).toBe(1)
  expect(await write(session, 7)).not.toBe('good')
  library.store.publish('lab', 2, 1)
  await one.close()
  const two = serverOver(library, store, 'readOnly')
  expect(await read(await login(two, first))).toBe(1)
  expect(await read(await login(two, begin(two)))).toBe(2)
  await two.close()
  library.close()
})

test('a policy that was changed counts from the next boot: a machine that is up keeps its disk', async () => {
  const library = await libraryAt('changed')
  const store = new MemoryFleetStore()
  const one = serverOver(library, store, 'persistent')
  const first = begin(one)
  await write(await login(one, first), 5)
  await one.close()
  const two = serverOver(library, store, 'ephemeral')
  expect(await read(await login(two, first))).toBe(5)
  const next = await login(two, begin(two))
  expect(await read(next)).toBe(1)
  await two.close()
  library.close()
})

test("a machine's policy holds over its image's, and that over the default", async () => {
  const library = await libraryAt('policies')
  const store = new MemoryFleetStore()
  const policies: string[] = []
  const bootWith = async (ofMachine: ClonePolicy | undefined): Promise<void> => {
    const server = serverOver(library, store, ofMachine)
    await login(server, begin(server))
    policies.push(library.store.bootDisk(mac)?.policy ?? '')
    await server.close()
  }
  await bootWith(undefined)
  library.store.setPolicy('lab', 'readOnly')
  await bootWith(undefined)
  await bootWith('ephemeral')
  expect(policies).toEqual(['persistent', 'readOnly', 'ephemeral'])
  for (const version of [1, 2]) library.store.remove('lab', version)
  expect(library.store.policyOf('lab')).toBeUndefined()
  library.close()
})

test('released: the sessions of that boot are unwanted, told once, and so is one that was logging in just then', async () => {
  const library = await libraryAt('released')
  const one = serverOver(library, new MemoryFleetStore(), 'persistent')
  const user = begin(one)
  const up = await login(one, user)
  expect(up.isUnwanted).toBe(false)
  expect(one.desk.noteFleetChanged()(up.identity), 'a change that is none of its business').toBe(false)
  const late = begin(one)
  const resolve = one.desk.resolve.bind(one.desk)
  one.desk.resolve = async (attempt) => {
    const verdict = await resolve(attempt)
    one.fleet.release(mac)
    return verdict
  }
  expect((await login(one, late)).isUnwanted).toBe(true)
  for (let times = 0; times < 2; times++) expect(one.desk.noteFleetChanged()(up.identity)).toBe(true)
  expect(one.happened.filter(({ kind }) => kind === 'credentialsEnded')).toMatchObject([{ mac, reason: 'released' }])
  await one.close()
  library.close()
})

/** PERSISTENT RESERVE OUT, service action REGISTER, with APTPL. */
function register(session: Session, key: number): Promise<Ended> {
  const list = new Uint8Array(24)
  list[15] = key
  list[20] = 0x01
  return execute(session, Uint8Array.of(0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0), list)
}

/** PERSISTENT RESERVE IN, READ KEYS: the last byte of the first key. */
async function keyIn(session: Session): Promise<number | undefined> {
  const { bytes } = await execute(session, Uint8Array.of(0x5e, 0, 0, 0, 0, 0, 0, 2, 0, 0))
  return bytes[7] === 0 ? undefined : bytes[15]
}

test('a registration that is to survive (APTPL) survives a restart and the next boot; a fresh clone has none', async () => {
  const library = await libraryAt('reserved')
  const store = new MemoryFleetStore()
  const file = join(library.directory, '../clones/52-54-00-77-00-10.reservations.json')
  const one = serverOver(library, store, 'persistent')
  const first = begin(one)
  expect((await register(await login(one, first), 0x5a)).status).toBe('good')
  await one.close()
  expect(existsSync(file)).toBe(true)

  const two = serverOver(library, store, 'persistent')
  expect(await keyIn(await login(two, first)), 'after a restart').toBe(0x5a)
  expect(await keyIn(await login(two, begin(two))), 'at the next boot from the same clone').toBe(0x5a)
  await two.close()

  await resetClone(library, mac)
  expect(existsSync(file), 'reset takes it away with the clone').toBe(false)
  const three = serverOver(library, store, 'persistent')
  expect(await keyIn(await login(three, begin(three)))).toBeUndefined()
  await three.close()

  writeFileSync(file, 'nonsense')
  const four = serverOver(library, store, 'persistent')
  await expect(login(four, begin(four))).rejects.toThrow('unavailable')
  expect(four.happened.findLast(({ kind }) => kind === 'diskFailed')).toMatchObject({
    hint: expect.stringContaining('initiators that had registered must do so again'),
  })
  await four.close()
  library.close()
})

test('a disk that is being sanitized stays open without sessions, and one that was cut off is shut after a restart', async () => {
  const library = await libraryAt('sanitized', 4 << 20)
  const store = new MemoryFleetStore()
  const directory = join(library.directory, '../clones')
  const waiting = new Set<() => void>()
  const clock: Clock = {
    ...systemClock,
    after: (afterMs, fire) => {
      if (afterMs !== 15_000) return systemClock.after(afterMs, fire)
      waiting.add(fire)
      return { cancel: () => waiting.delete(fire) }
    },
  }
  const one = serverOver(library, store, 'persistent', clock)
  const user = begin(one)
  const session = await login(one, user)
  const testUnitReady = async (of: Session): Promise<unknown> => {
    const { status, sense } = await execute(of, new Uint8Array(16))
    return sense ?? status
  }
  // OVERWRITE, at once, and its failure may be left.
  const cdb = Uint8Array.of(0x48, 0xa1, 0, 0, 0, 0, 0, 0, 5, 0)
  expect((await execute(session, cdb, Uint8Array.of(1, 0, 0, 1, 0xaa))).status).toBe('good')
  logout(one, session)
  const [idle] = waiting
  waiting.clear()
  idle?.()
  await vi.waitFor(() => expect(waiting.size, 'it waits again').toBe(1))
  expect(lockFile(join(directory, '52-54-00-77-00-10.qcow2'), 'mustBeThere')).toBeUndefined()
  expect(await testUnitReady(await login(one, user))).toBe('2/041b')
  await one.close()
  expect(one.happened.filter(({ kind }) => kind === 'diskFailed')).toMatchObject([
    { reason: expect.stringContaining('SANITIZE was cut off') },
  ])

  const two = serverOver(library, store, 'persistent')
  const again = await login(two, user)
  expect(await testUnitReady(again)).toBe('3/3103')
  expect((await command(again, 0x28, 100)).status).toBe(2)
  expect((await execute(again, Uint8Array.of(0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0))).status).toBe('good')
  expect(await testUnitReady(again)).toBe('good')
  expect(clonesIn(library)).toEqual(['52-54-00-77-00-10.qcow2'])
  await two.close()
  library.close()
})

test("the reservations of one boot's clone go with it", async () => {
  const library = await libraryAt('reserved-once')
  const server = serverOver(library, new MemoryFleetStore(), 'ephemeral')
  const session = await login(server, begin(server))
  await register(session, 0x77)
  expect(clonesIn(library).filter((name) => name.endsWith('.json'))).toHaveLength(1)
  logout(server, session)
  expect(await keyIn(await login(server, begin(server)))).toBeUndefined()
  await server.close()
  expect(clonesIn(library).filter((name) => name.endsWith('.json'))).toEqual([])
  library.close()
})

describe('the trace of a boot', () => {
  /** Whose ISID it is (RFC 7143 §11.12.5): iPXE's by its enterprise number, open-iscsi's by its OUI. */
  const [ipxe, openIscsi] = ['40002723', '00023d']
  const readBlocks = async (session: Session, blocks: readonly number[]): Promise<void> => {
    for (const block of blocks) await command(session, 0x28, block)
  }
  const kindsOf = ({ happened }: Server): string[] =>
    happened.map(({ kind }) => kind).filter((kind) => kind.startsWith('bootTrace'))
  const traceFile = (library: Library): string => join(library.directory, 'lab@1.boot')

  test('is kept when the system has come up, told of, fetched for the next machine, and goes with the version', async () => {
    const library = await libraryAt('traced')
    const store = new MemoryFleetStore()
    const one = serverOver(library, store, 'ephemeral')
    const user = begin(one)
    const firmware = await login(one, user, ipxe)
    await readBlocks(firmware, [0, 1, 800, 801, 1600])
    const system = await login(one, user, openIscsi)
    await readBlocks(system, [80, 800, 2047])
    await one.close()
    expect(one.happened.find(({ kind }) => kind === 'bootTraceRecorded')).toMatchObject({
      image: 'lab@1',
      readCount: 5,
      readBytes: 5 * 4096,
    })
    expect(await describeTrace(traceFile(library))).toEqual({ readCount: 5, readBytes: 5 * 4096 })

    const two = serverOver(library, store, 'ephemeral')
    begin(two)
    two.desk.expect(mac)
    await vi.waitFor(() => expect(kindsOf(two)).toEqual(['bootTraceFetched']))
    two.desk.expect(mac)
    await readBlocks(await login(two, begin(two), ipxe), [0, 400])
    await two.close()
    expect(kindsOf(two), 'nothing more to fetch, and not taken down again').toEqual(['bootTraceFetched'])

    library.close()
    const swept = await Library.open(join(folder, 'traced'))
    expect(existsSync(traceFile(swept)), 'it is nothing that a kill left behind').toBe(true)
    await swept.remove([findVersion(swept.store, { name: 'lab', version: 1 })])
    expect(existsSync(traceFile(swept))).toBe(false)
    swept.close()
  })

  test('is not kept of a machine that came no further than its loader, even if that wrote', async () => {
    const library = await libraryAt('halfway')
    const server = serverOver(library, new MemoryFleetStore(), 'ephemeral')
    const session = await login(server, begin(server), ipxe)
    await readBlocks(session, [0, 1, 800])
    await write(session, 5)
    await server.close()
    expect(kindsOf(server)).toEqual([])
    expect(existsSync(traceFile(library))).toBe(false)
    library.close()
  })

  test('that is damaged, or of another disk, stops no boot and is made anew', async () => {
    const library = await libraryAt('damaged')
    const store = new MemoryFleetStore()
    const ofAnother = encodeBootTrace({ diskBytes: 4096, ranges: [{ offset: 0, bytes: 4096 }] })
    for (const content of [Buffer.from('SLIPBOOT and then nothing of use'), ofAnother, Buffer.alloc(2_000_000)]) {
      writeFileSync(traceFile(library), content)
      const server = serverOver(library, store, 'ephemeral')
      const session = await login(server, begin(server), openIscsi)
      await readBlocks(session, [0])
      await server.close()
      expect(kindsOf(server)).toEqual(['bootTraceRecorded'])
      expect(await describeTrace(traceFile(library))).toEqual({ readCount: 1, readBytes: 4096 })
    }
    library.close()
  })
})

test('the disk that a kernel is read from is the one that its boot gets, whatever is published meanwhile', async () => {
  const library = await libraryAt('kernel')
  const server = serverOver(library, new MemoryFleetStore(), 'ephemeral')
  const user = begin(server)
  const source = await server.desk.openForBoot(mac)
  expect((await source.read(8 * 512, 1))[0]).toBe(1)
  library.store.publish('lab', 2, 1)
  const session = await login(server, user)
  expect(await read(session), 'the version that the kernel is of').toBe(1)
  expect(await write(session, 7)).toBe('good')
  // A script that is fetched anew looks anew, and at a disk of its own.
  const next = await server.desk.openForBoot(mac)
  expect((await next.read(8 * 512, 1))[0]).toBe(2)
  expect(await read(session)).toBe(7)
  const later = await login(server, begin(server))
  expect(await read(later)).toBe(2)
  logout(server, session)
  logout(server, later)
  await server.close()
  library.close()
})

test('a kept clone is read before there is a login, with what the machine wrote', async () => {
  const library = await libraryAt('kernel-kept')
  const server = serverOver(library, new MemoryFleetStore(), 'persistent')
  const session = await login(server, begin(server))
  expect(await write(session, 7)).toBe('good')
  const source = await server.desk.openForBoot(mac)
  expect((await source.read(8 * 512, 1))[0]).toBe(7)
  logout(server, session)
  await server.close()
  library.close()
})

test('a disk that cannot be opened is an error for who wants its kernel, and the next try is a new one', async () => {
  const library = await libraryAt('kernel-busy')
  const server = serverOver(library, new MemoryFleetStore(), 'persistent')
  const first = await login(server, begin(server))
  logout(server, first)
  await server.close()
  const again = serverOver(library, new MemoryFleetStore(), 'persistent')
  const clone = join(library.directory, '../clones', clonesIn(library).find((name) => name.endsWith('.qcow2')) ?? '')
  const lock = lockFile(clone, 'mustBeThere')
  await expect(again.desk.openForBoot(mac)).rejects.toMatchObject({ code: 'cloneBusy' })
  lock?.release()
  const source = await again.desk.openForBoot(mac)
  expect((await source.read(8 * 512, 1))[0]).toBe(1)
  await again.close()
  library.close()
})
