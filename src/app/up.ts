/** `slipway up`: everything that a diskless machine needs, plugged together, started in order and stopped in order. */
import { formatIpv4, type Mac, parseIpv4 } from '../base/address.ts'
import { messageOf, OperationError } from '../base/errors.ts'
import { createBlockCache } from '../block/cache.ts'
import type { RemoteState } from '../block/remote.ts'
import { openLeaseLog } from '../dhcp/lease-log.ts'
import { type DhcpEvent, type DhcpEvents, forgetfulLeaseStore, type LeaseStore } from '../dhcp/policy.ts'
import { type DhcpServerTerms, startDhcpServer } from '../dhcp/server.ts'
import { startSolicitationResponder } from '../dhcp/solicitation-responder.ts'
import { base32 } from '../fleet/credentials.ts'
import { Fleet } from '../fleet/fleet.ts'
import type { Assignment } from '../fleet/machine.ts'
import { namingAuthorityDefault } from '../fleet/names.ts'
import type { FleetStore } from '../fleet/store.ts'
import { linkAddressOf } from '../host/arp.ts'
import { systemClock } from '../host/clock.ts'
import { kindOf, makeDirectory } from '../host/directory.ts'
import { openFile } from '../host/file.ts'
import { openFleetStore } from '../host/fleet-store.ts'
import { systemHash } from '../host/hash.ts'
import { systemIcmpv6 } from '../host/icmpv6.ts'
import { chooseInterface, listInterfaces, type NetworkInterface } from '../host/interfaces.ts'
import { openJournalStore } from '../host/journal-store.ts'
import { scryptPasswords } from '../host/password.ts'
import { resolve } from '../host/path.ts'
import { systemRandom } from '../host/random.ts'
import { lockStateDirectory } from '../host/state-directory.ts'
import { systemTcp } from '../host/tcp.ts'
import { createNeighbours, systemUdp } from '../host/udp.ts'
import { serveHttp } from '../http/server.ts'
import { createIscsiTarget } from '../iscsi/server.ts'
import type { BootEvent } from '../journal/events.ts'
import { Journal } from '../journal/journal.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import type { Log } from '../ports/log.ts'
import { serveTftp } from '../tftp/server.ts'
import { BootDesk, type BootDeskParts } from './boot-desk.ts'
import { BootTraces } from './boot-traces.ts'
import { Clones } from './clones.ts'
import { formatRange, policyOfImage, type UpConfig } from './config.ts'
import { DiskDesk } from './disk-desk.ts'
import { EventStream } from './event-stream.ts'
import { FirmwareHttps } from './firmware-https.ts'
import { goldenImageName } from './golden.ts'
import { HttpsService } from './https.ts'
import { type ImageReference, Library, parseReference } from './library.ts'
import { addedLoadersFolder, readLoaders } from './loaders.ts'
import { formatNbdUri, isNbdUri, parseNbdUri } from './nbd-disk.ts'
import { ProofDesk } from './proof-desk.ts'
import { Roster } from './roster.ts'
import { ImageShelf } from './shelf.ts'
import { trustFolder } from './site-authority.ts'
import { storageNetworkOf, storageTcp } from './storage-network.ts'
import { fromDhcp, fromHttp, fromIscsi, fromTftp, type Said } from './translate.ts'
import { watchFleet } from './watch-fleet.ts'

export interface RunningServer {
  /** The network it serves, for people. */
  readonly network: NetworkInterface
  readonly fleet: Fleet
  /** Looks at once whether there are other certificates; it does so by itself, only later. */
  reload(): Promise<void>
  /** Tells every session, flushes everything, lets go of everything. Once. */
  stop(): Promise<void>
}

/** How long initiators may take to log out when Slipway stops. Firmware never does: it does not listen. */
const logoutGraceMs = 2_000

/** @throws {OperationError} whatever keeps a service from starting; nothing stays open then */
export async function startUp(
  config: UpConfig,
  listener: (event: BootEvent) => void,
  log: Log,
): Promise<RunningServer> {
  /** What to undo, last first. */
  const undo: (() => unknown)[] = []
  const stop = async (): Promise<void> => {
    for (const step of undo.splice(0).reverse()) {
      await Promise.resolve(step()).catch((error: unknown) => log.error('while stopping', { reason: messageOf(error) }))
    }
  }
  try {
    return await start(config, listener, log, undo, stop)
  } catch (error) {
    await stop()
    throw error
  }
}

async function start(
  config: UpConfig,
  listener: (event: BootEvent) => void,
  log: Log,
  undo: (() => unknown)[],
  stop: () => Promise<void>,
): Promise<RunningServer> {
  const network = chooseInterface(config.interfaceName)
  const storage = config.storage && storageNetworkOf(config.storage, network, listInterfaces())
  const state = lockStateDirectory(config.stateDirectory)
  undo.push(() => state.close())
  const library = await Library.open(config.stateDirectory)
  undo.push(() => library.close())
  const served = await whatIsServed(config.imagePath, library)
  const cache = createBlockCache(config.cacheBytes)
  const remote: {
    tell: (label: string, state: RemoteState) => void
    complain: (label: string, reason: string, hint: string) => void
  } = { tell: () => undefined, complain: () => undefined }
  const shelf = new ImageShelf({
    library,
    filePath: served.filePath,
    cache,
    onState: (label, state) => remote.tell(label, state),
    onTrouble: (image, reason, hint) => remote.complain(image, reason, hint),
  })
  undo.push(() => shelf.close())
  const addedLoaders = state.file(addedLoadersFolder)
  await makeDirectory(addedLoaders)
  const loaders = await readLoaders([addedLoaders, ...config.loadersDirectories], log)
  const store = openFleetStore(state.file('fleet.db'))
  undo.push(() => store.close())

  const clock = systemClock
  const roster = new Roster(clock, linkAddressOf)
  const journalStore = openJournalStore(state.file('journal.db'))
  undo.push(() => journalStore.close())
  const journal = new Journal(journalStore, () => clock.wallMs())
  journal.subscribe(listener)
  const events = new EventStream(journal, clock, log, (address) => roster.macOf(address))
  undo.push(() => events.close())
  const say = (said: Said | undefined): void => {
    if (said !== undefined) events.emit(said.whose, said.happening)
  }
  remote.complain = (image, reason, hint) => events.emit({}, { kind: 'imageTrouble', image, reason, hint })
  remote.tell = (image, state) => {
    if (state.kind === 'back') events.emit({}, { kind: 'imageBack', image, awayMs: state.awayMs })
    else events.emit({}, { kind: 'imageAway', image, reason: state.reason })
  }
  const fleet = createFleet(config, served.image, store)
  // A name that is wrong is told now, not when a machine boots.
  for (const assignment of assignmentsOf(fleet)) await shelf.open(shelf.meant(assignment).path)
  const firmwareHttps = new FirmwareHttps(clock, (mac, happening) => events.emit({ mac }, happening))
  undo.push(() => firmwareHttps.close())
  const https = new HttpsService({
    listen: { address: network.address, port: config.ports.https },
    proofListen: { address: network.address, port: config.ports.proof },
    certificates: {
      address: network.address,
      serverName: config.serverName,
      own: config.ownCertificate,
      dnsServers: config.dhcp.mode === 'server' ? config.dhcp.dns : [],
      trustDirectory: state.file(trustFolder),
    },
    compat: config.compat,
    serve: (request) => bootDesk.serve(request),
    say: (said) => {
      const mac = roster.macOf(said?.whose.address ?? '')
      if (mac !== undefined) firmwareHttps.came(mac)
      say(said)
    },
    clock,
    log,
  })
  const bootDesk = new BootDesk({
    fleet,
    roster,
    events,
    loaders,
    clock,
    ports: config.ports,
    chap: config.chap,
    proofs: new ProofDesk({ proofs: store.proofs, passwords: scryptPasswords, events, clock }),
    httpsHost: () => https.host,
    firmwareTrustsUs: firmwareTrust(config, fleet),
    firmwareHttps,
    willBoot: (mac) => diskDesk.expect(mac),
    storage,
  })
  const traces = new BootTraces({
    shelf,
    cache,
    directory: state.file('traces'),
    clock,
    log,
    emit: (happening) => events.emit({}, happening),
  })
  undo.push(() => traces.close())
  const diskDesk = new DiskDesk({
    fleet,
    clones: new Clones(state.file('clones'), shelf, traces),
    shelf,
    traces,
    bootDisks: library.store,
    policyOf: (image) => policyOfImage(config, image, library.store.policyOf(image)),
    nextName: () => base32(systemRandom.bytes(5)).toLowerCase(),
    events,
    clock,
    chap: config.chap,
  })
  undo.push(() => diskDesk.close())
  const ready = (service: string, endpoint: string): void => {
    events.emit({}, { kind: 'serviceReady', service, endpoint })
  }

  // The disk first: nobody is told of a disk that is not there yet.
  const listen = (port: number): { address: string; port: number } => ({ address: network.address, port })
  const target = createIscsiTarget({
    network: storage === undefined ? systemTcp : storageTcp(storage),
    clock,
    random: systemRandom,
    hash: systemHash,
    directory: diskDesk,
    events: (event) => {
      if (event.kind === 'sessionOpened') {
        const { session, authentication } = event
        const user = authentication.kind === 'chap' ? authentication.user : undefined
        const unwanted = diskDesk.noteOpened(session, user)
        if (unwanted !== undefined) target.drop(unwanted)
      }
      for (const said of fromIscsi(event, (session) => diskDesk.bootOf(session))) say(said)
      if (event.kind === 'sessionClosed') diskDesk.noteClosed(event.session)
    },
  })
  undo.push(() => target.close(logoutGraceMs))
  const portal = { ...listen(config.ports.iscsi), ...(storage && { address: storage.address }) }
  await target.listen(portal)
  ready('iscsi', `${portal.address}:${portal.port}`)
  undo.push(watchFleet(store, clock, () => target.drop(diskDesk.noteFleetChanged())))

  const http = await serveHttp({
    network: systemTcp,
    clock,
    listen: listen(config.ports.http),
    secure: false,
    handler: (request) => bootDesk.serve(request),
    onEvent: (event) => say(fromHttp(event)),
  })
  undo.push(() => http.close())
  ready('http', `${network.address}:${config.ports.http}`)

  const tftp = await serveTftp({
    network: systemUdp,
    clock,
    listen: { ...listen(config.ports.tftp), interfaceName: network.name },
    catalogue: bootDesk,
    onEvent: (event) => {
      const said = fromTftp(event)
      const mac = roster.macOf(event.kind === 'malformed' ? '' : event.from.address)
      if (said.happening.kind === 'tftpDone' && mac !== undefined) roster.fetchedLoader(mac)
      say(said)
    },
  })
  undo.push(() => tftp.close())
  ready('tftp', `${network.address}:${config.ports.tftp}`)

  // Not waited for: the keys of a first start take seconds to make, and everything else works without.
  void https.start()
  undo.push(() => https.close())

  const dhcpParts = { config, network, bootDesk, roster, events, log, file: (name: string) => state.file(name) }
  if (config.dhcp.mode !== 'off') undo.push(await startDhcp(dhcpParts))
  return { network, fleet, reload: () => https.look(), stop }
}

/** A file wins over a name of the library: what is written as a path is meant as one. */
async function whatIsServed(
  said: string,
  library: Library,
): Promise<{ readonly filePath: string | undefined; readonly image: ImageReference }> {
  const reference = parseReference(said)
  const golden = { name: goldenImageName, version: undefined }
  if (isNbdUri(said)) return { filePath: formatNbdUri(parseNbdUri(said)), image: golden }
  const isFile = (await kindOf(said)) !== undefined
  if (isFile || reference === undefined || library.store.versionsOf(reference.name).length === 0) {
    return { filePath: resolve(said), image: golden }
  }
  return { filePath: undefined, image: reference }
}

/** What the configuration assigns, to all and to some. */
function assignmentsOf({ terms }: Fleet): Assignment[] {
  return [terms.assignment, ...(terms.assignments?.values() ?? [])]
}

function createFleet(config: UpConfig, image: ImageReference, store: FleetStore): Fleet {
  const assignment: Assignment = { image: image.name, version: image.version, clonePolicy: undefined }
  const assignments = new Map<Mac, Assignment>()
  for (const { mac, image: own, clonePolicy } of config.machines) {
    if (own === undefined && clonePolicy === undefined) continue
    assignments.set(mac, {
      ...assignment,
      ...(own === undefined ? {} : { image: own.name, version: own.version }),
      ...(clonePolicy === undefined ? {} : { clonePolicy }),
    })
  }
  const fleet = new Fleet(
    {
      policy: config.admit,
      namingAuthority: namingAuthorityDefault,
      assignment,
      assignments,
      transport: config.transport,
      require: config.require,
      demands: new Map(config.machines.map((machine) => [machine.mac, machine])),
    },
    store,
    (byteCount) => systemRandom.bytes(byteCount),
  )
  for (const machine of config.machines) fleet.configure(machine, systemClock.wallMs())
  return fleet
}

/** Where nothing is said of a machine: who set strict wants no loader by plain HTTP either. */
function firmwareTrust(config: UpConfig, fleet: Fleet): BootDeskParts['firmwareTrustsUs'] {
  const own = new Map(config.machines.map(({ mac, uefiHttps }) => [mac, uefiHttps]))
  return (machine) => {
    const transport = machine === undefined ? fleet.terms.transport : fleet.transportOf(machine)
    return own.get(machine?.mac ?? '') ?? config.uefiHttps ?? transport === 'strict'
  }
}

type DhcpParts = {
  readonly config: UpConfig
  readonly network: NetworkInterface
  readonly bootDesk: BootDesk
  readonly roster: Roster
  readonly events: EventStream
  readonly log: Log
  /** A file of the state directory. */
  file(name: string): string
}

/** Returns what stops it. */
async function startDhcp(parts: DhcpParts): Promise<() => Promise<void>> {
  const { config, network, bootDesk, roster, events, log } = parts
  const solicitation: { hear?: (event: DhcpEvent) => void } = {}
  const dhcpEvents: DhcpEvents = {
    emit: (event) => {
      solicitation.hear?.(event)
      if (event.kind === 'leased') roster.hasAddress(event.client.mac, event.address)
      for (const { whose, happening } of fromDhcp(event, (client) => bootDesk.reasonFor(client))) {
        events.emit(whose, happening)
      }
    },
  }
  const leases = config.dhcp.mode === 'server' ? await openLeases(parts) : undefined
  const server = await startDhcpServer(
    dhcpTerms(config, network),
    { udp: systemUdp, neighbours: createNeighbours(), clock: systemClock, log },
    { advisor: bootDesk, leases: leases?.store ?? forgetfulLeaseStore, events: dhcpEvents },
  )
  // Without router advertisements a boot works, only slower; so a machine without IPv6 or the capability goes on.
  const responder = await startSolicitationResponder(
    { interfaceName: network.name, linkAddress: linkAddressBytes(network.mac) },
    { icmpv6: systemIcmpv6, clock: systemClock },
    dhcpEvents,
  ).catch((error: unknown) => {
    log.info('no router advertisements: an iPXE of 2019 waits 12 s longer', { reason: messageOf(error) })
    return undefined
  })
  if (responder !== undefined) solicitation.hear = (event) => responder.hear(event)
  const { range } = config.dhcp
  const what = range === undefined ? 'proxy' : formatRange(range)
  events.emit({}, { kind: 'serviceReady', service: 'dhcp', endpoint: `${network.name}:${config.ports.dhcp} (${what})` })
  return async () => {
    responder?.close()
    await server.close()
    await leases?.close()
  }
}

async function openLeases({ file }: DhcpParts): Promise<{ store: LeaseStore; close: () => Promise<void> }> {
  const open = async (name: string): Promise<RandomAccessFile> =>
    openFile(file(name), 'readWrite').catch((error: unknown) => {
      if (error instanceof OperationError && error.code === 'fileMissing') return openFile(file(name), 'createNew')
      throw error
    })
  const files = [await open('leases-a'), await open('leases-b')] as const
  const store = openLeaseLog(files)
  return {
    store,
    close: async () => {
      await store.close()
      for (const each of files) await each.close()
    },
  }
}

function dhcpTerms(config: UpConfig, network: NetworkInterface): DhcpServerTerms {
  const { range, router, dns, leaseSeconds } = config.dhcp
  const common = { interfaceName: network.name, port: config.ports.dhcp, bootServerPort: config.ports.pxe }
  if (range === undefined) return { ...common, mode: { kind: 'proxy', serverAddress: network.address } }
  return {
    ...common,
    mode: {
      kind: 'server',
      pool: {
        serverAddress: network.address,
        prefixBits: prefixBitsOf(network.netmask),
        from: formatIpv4(range.first),
        to: formatIpv4(range.last),
        ...(router === undefined ? {} : { routers: [router] }),
        domainNameServers: dns,
        leaseSeconds,
      },
    },
  }
}

function prefixBitsOf(netmask: string): number {
  const bits = parseIpv4(netmask) ?? 0
  return bits.toString(2).replaceAll('0', '').length
}

function linkAddressBytes(mac: string): Uint8Array {
  return Uint8Array.from(mac.split(':').map((part) => Number.parseInt(part, 16)))
}
