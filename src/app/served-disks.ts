/** iSCSI targets of one process: a name, a disk and a device server for each. */
import { OperationError } from '../base/errors.ts'
import { gibibyte } from '../base/units.ts'
import { type BlockCache, createBlockCache } from '../block/cache.ts'
import type { BlockDevice } from '../block/device.ts'
import { openRawDevice } from '../block/file.ts'
import { createMemoryFile } from '../block/memory-file.ts'
import { createOverlay } from '../block/overlay.ts'
import { openQcow2, probeFormat } from '../block/qcow2/open.ts'
import type { RemoteState } from '../block/remote.ts'
import { systemClock } from '../host/clock.ts'
import { nodeCompression } from '../host/compression.ts'
import { openFileAlone } from '../host/file.ts'
import { systemHash } from '../host/hash.ts'
import { resolve } from '../host/path.ts'
import { systemRandom } from '../host/random.ts'
import { openReservationFile } from '../host/reservation-file.ts'
import { openSanitizeFile } from '../host/sanitize-file.ts'
import { systemTcp } from '../host/tcp.ts'
import type { Authentication, IscsiEvent, TargetListing } from '../iscsi/policy.ts'
import { createIscsiTarget } from '../iscsi/server.ts'
import type { Endpoint } from '../ports/udp.ts'
import { createDeviceServer, type TargetDevice } from '../scsi/device-server.ts'
import type { SanitizeStore } from '../scsi/sanitize-store.ts'
import { sanitizePathOf } from './clone-files.ts'
import { openOrMakeClone } from './clones.ts'
import { besideIt, openGolden } from './golden.ts'
import { isNbdUri, openNbdDisk } from './nbd-disk.ts'

export type TargetAccess =
  /** Writes go to memory and are gone when it stops. */
  | { readonly kind: 'ephemeral' }
  | { readonly kind: 'readOnly' }
  | { readonly kind: 'inPlace' }
  | { readonly kind: 'clone'; readonly path: string }

/** One target. Plain data: it may be sent to another process. */
export type DiskOptions = {
  readonly targetName: string
  readonly imagePath: string
  readonly access: TargetAccess
  readonly blockBytes: 512 | 4096
  readonly physicalBlockBytes: 512 | 4096
  /** Where persistent reservations outlive a restart; undefined: they do not, and initiators are told. */
  readonly reservationsPath: string | undefined
}

export type ServeOptions = {
  readonly disks: readonly DiskOptions[]
  readonly authentication: Authentication
  readonly listen: Endpoint
  /** The port that initiators are told to come to, where that is not this one. */
  readonly portalPort?: number
}

export type DiskEvent =
  | { readonly kind: 'diskFailed'; readonly targetName: string; readonly reason: string; readonly hint: string }
  /** Of a disk that lives elsewhere. */
  | { readonly kind: 'diskAway'; readonly targetName: string; readonly reason: string }
  | { readonly kind: 'diskBack'; readonly targetName: string; readonly awayMs: number }
  | IscsiEvent

export interface ServedDisks {
  readonly local: Endpoint
  /** In the order of `disks`. */
  readonly sizesBytes: readonly number[]
  stop(): Promise<void>
}

/** How long initiators may take to log out when the target stops. */
const logoutGraceMs = 2_000
/** Memory that an ephemeral clone's changes may take. */
const ephemeralBytesMax = 4 * gibibyte
/** Golden blocks kept in memory for all targets of this process. */
const cacheBytes = gibibyte / 2

/** @throws {OperationError} fileMissing, imageEmpty, imageCorrupt, portTaken, ... */
export async function serveDisks(options: ServeOptions, listener: (event: DiskEvent) => void): Promise<ServedDisks> {
  const { disks, authentication, listen } = options
  const cache = createBlockCache(cacheBytes)
  const devices: BlockDevice[] = []
  const servers = new Map<string, TargetDevice>()
  const closeDevices = async (): Promise<void> => {
    for (const device of devices) await device.close()
  }
  try {
    for (const disk of disks) {
      const { targetName } = disk
      const device = await openDevice(disk, cache, (state) => {
        if (state.kind === 'back') listener({ kind: 'diskBack', targetName, awayMs: state.awayMs })
        else listener({ kind: 'diskAway', targetName, reason: state.reason })
      })
      devices.push(device)
      servers.set(targetName, await deviceServerOf(disk, device, listener))
    }
    const target = createIscsiTarget({
      network: systemTcp,
      clock: systemClock,
      random: systemRandom,
      hash: systemHash,
      directory: {
        resolve: ({ targetName }) => {
          const deviceServer = targetName === undefined ? undefined : servers.get(targetName)
          if (deviceServer === undefined) return { kind: 'refuse', reason: 'notFound' }
          return { kind: 'accept', authentication, deviceServer }
        },
        discover: () => ({ kind: 'accept', authentication }),
        list: ({ local }) => listTargets(disks, { ...local, port: options.portalPort ?? local.port }),
      },
      events: listener,
    })
    const { local } = await target.listen(listen)
    return {
      local,
      sizesBytes: devices.map(({ sizeBytes }) => sizeBytes),
      stop: async () => {
        await target.close(logoutGraceMs)
        for (const server of servers.values()) await server.stop()
        await closeDevices()
      },
    }
  } catch (error) {
    await closeDevices()
    throw error
  }
}

export function listTargets(disks: readonly DiskOptions[], { address, port }: Endpoint): readonly TargetListing[] {
  return disks.map(({ targetName }) => ({ targetName, portals: [{ address, port }] }))
}

async function deviceServerOf(
  disk: DiskOptions,
  device: BlockDevice,
  listener: (event: DiskEvent) => void,
): Promise<TargetDevice> {
  const { targetName, reservationsPath } = disk
  const reservationStore = reservationsPath === undefined ? undefined : await openReservationFile(reservationsPath)
  const sanitizeStore = await sanitizeStoreOf(disk)
  return createDeviceServer({
    targetName,
    disks: [
      {
        device,
        serialNumber: serialOf(targetName),
        logicalBlockBytes: disk.blockBytes,
        physicalBlockBytes: disk.physicalBlockBytes,
        ...(reservationStore === undefined ? {} : { reservationStore }),
        ...(sanitizeStore === undefined ? {} : { sanitizeStore }),
      },
    ],
    report: (error) => {
      if (!(error instanceof OperationError)) throw error
      listener({ kind: 'diskFailed', targetName, reason: error.message, hint: error.hint })
    },
    pause: (milliseconds) => new Promise((resolve) => systemClock.after(milliseconds, resolve)),
  })
}

/** Beside the file that is written to. What is in memory is gone anyway; beside devices and NBD servers' disks there is no place. */
async function sanitizeStoreOf({ access, imagePath }: DiskOptions): Promise<SanitizeStore | undefined> {
  if (access.kind === 'clone') return openSanitizeFile(sanitizePathOf(access.path))
  if (access.kind !== 'inPlace' || isNbdUri(imagePath) || resolve(imagePath).startsWith('/dev/')) return undefined
  return openSanitizeFile(sanitizePathOf(imagePath))
}

async function openDevice(
  { imagePath, access, blockBytes }: DiskOptions,
  cache: BlockCache,
  onState: (state: RemoteState) => void,
): Promise<BlockDevice> {
  if (access.kind === 'inPlace') {
    if (isNbdUri(imagePath)) return openNbdDisk(imagePath, { blockBytes, onState })
    return openInPlace(imagePath, blockBytes)
  }
  const golden = await openGolden(imagePath, { cache, onState })
  if (access.kind === 'readOnly') return golden.device
  if (access.kind === 'clone') return openOrMakeClone(access.path, golden)
  return createOverlay({ golden: golden.device, changes: createMemoryFile(ephemeralBytesMax) })
}

async function openInPlace(path: string, blockBytes: 512 | 4096): Promise<BlockDevice> {
  const file = await openFileAlone(path, 'readWrite')
  try {
    if ((await probeFormat(file)) === 'raw') return await openRawDevice(file, { blockBytes })
    return await openQcow2(file, { compression: nodeCompression, backing: besideIt })
  } catch (error) {
    await file.close()
    throw error
  }
}

/** The same after every restart: initiators know a disk again by it. FNV-1a of the name, as hexadecimal digits. */
function serialOf(targetName: string): string {
  let hash = 0xcbf29ce484222325n
  for (let i = 0; i < targetName.length; i++) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(targetName.charCodeAt(i))) * 0x100000001b3n)
  }
  return hash.toString(16).padStart(16, '0')
}
