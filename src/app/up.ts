/** `slipway up`: everything that a diskless machine needs, plugged together, started in order and stopped in order. */
import { messageOf } from '../base/errors.ts'
import { createBlockCache } from '../block/cache.ts'
import type { RemoteState } from '../block/remote.ts'
import { base32 } from '../fleet/credentials.ts'
import type { Fleet } from '../fleet/fleet.ts'
import { linkAddressOf } from '../host/arp.ts'
import { systemClock } from '../host/clock.ts'
import { kindOf, makeDirectory } from '../host/directory.ts'
import { openFleetStore } from '../host/fleet-store.ts'
import { systemHash } from '../host/hash.ts'
import { chooseInterface, listInterfaces, type NetworkInterface } from '../host/interfaces.ts'
import { openJournalStore } from '../host/journal-store.ts'
import { scryptPasswords } from '../host/password.ts'
import { resolve } from '../host/path.ts'
import { systemRandom } from '../host/random.ts'
import { lockStateDirectory } from '../host/state-directory.ts'
import { systemTcp } from '../host/tcp.ts'
import { systemUdp } from '../host/udp.ts'
import { systemUnpacker } from '../host/unpack.ts'
import { serveHttp } from '../http/server.ts'
import { createIscsiTarget } from '../iscsi/server.ts'
import type { BootEvent } from '../journal/events.ts'
import { Journal } from '../journal/journal.ts'
import type { Log } from '../ports/log.ts'
import { serveTftp } from '../tftp/server.ts'
import { BootDesk } from './boot-desk.ts'
import { BootTraces } from './boot-traces.ts'
import { Clones } from './clones.ts'
import { policyOfImage, startOf, type UpConfig } from './config.ts'
import { assignmentsOf, createFleet, firmwareTrust } from './configured-fleet.ts'
import { startDhcp } from './dhcp-service.ts'
import { DiskDesk } from './disk-desk.ts'
import { EventStream } from './event-stream.ts'
import { FirmwareHttps } from './firmware-https.ts'
import { goldenImageName } from './golden.ts'
import { HttpsService } from './https.ts'
import { type ImageReference, Library, parseReference } from './library.ts'
import { LinuxDesk } from './linux-desk.ts'
import { addedLoadersFolder, readLoaders } from './loaders.ts'
import { formatNbdUri, isNbdUri, parseNbdUri } from './nbd-disk.ts'
import { whyNoLoader } from './no-loader.ts'
import { ProofDesk } from './proof-desk.ts'
import { Roster } from './roster.ts'
import { ImageShelf } from './shelf.ts'
import { trustFolder } from './site-authority.ts'
import { storageNetworkOf, storageTcp } from './storage-network.ts'
import { fromHttp, fromIscsi, fromTftp, type Said } from './translate.ts'
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
    noLoaderFor: (mac) => whyNoLoader(shelf, roster.clientOf(mac)?.architecture, () => diskDesk.freshImageOf(mac)),
    startOf: startOf(config),
    linux: new LinuxDesk({
      fleet,
      openDisk: (mac) => diskDesk.openForBoot(mac),
      clock,
      hash: systemHash,
      unpacker: systemUnpacker,
      chap: config.chap,
      portal: (address) => ({ address, port: config.ports.iscsi }),
    }),
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
  const isFile = (await kindOf(said)) === 'file'
  if (isFile || reference === undefined || library.store.versionsOf(reference.name).length === 0) {
    return { filePath: resolve(said), image: golden }
  }
  return { filePath: undefined, image: reference }
}
