/** `slipway target`: one disk image by iSCSI, and nothing of booting. */
import { OperationError } from '../base/errors.ts'
import { secretsEqual } from '../base/secret.ts'
import type { BlockDevice } from '../block/device.ts'
import { openRawDevice } from '../block/file.ts'
import { createMemoryFile } from '../block/memory-file.ts'
import { createOverlay } from '../block/overlay.ts'
import { openQcow2, probeFormat } from '../block/qcow2/open.ts'
import { parseIscsiName } from '../fleet/names.ts'
import { systemClock } from '../host/clock.ts'
import { nodeCompression } from '../host/compression.ts'
import { openFile } from '../host/file.ts'
import { systemHash } from '../host/hash.ts'
import { basename } from '../host/path.ts'
import { systemRandom } from '../host/random.ts'
import { openReservationFile } from '../host/reservation-file.ts'
import { readSecretFile } from '../host/secret-file.ts'
import { systemTcp } from '../host/tcp.ts'
import type { Authentication, ChapCredential, IscsiEvent, TargetDirectory } from '../iscsi/policy.ts'
import { createIscsiTarget } from '../iscsi/server.ts'
import type { Endpoint } from '../ports/udp.ts'
import { createDeviceServer } from '../scsi/device-server.ts'
import { openOrMakeClone } from './clones.ts'
import { besideIt, openGolden } from './golden.ts'

export type TargetAccess =
  /** Writes go to memory and are gone when it stops. */
  | { readonly kind: 'ephemeral' }
  | { readonly kind: 'readOnly' }
  | { readonly kind: 'inPlace' }
  | { readonly kind: 'clone'; readonly path: string }

export type TargetOptions = {
  readonly imagePath: string
  readonly listen: Endpoint
  /** Undefined: made from the name of the image. */
  readonly name: string | undefined
  readonly access: TargetAccess
  readonly blockBytes: 512 | 4096
  readonly physicalBlockBytes: 512 | 4096
  /** Where persistent reservations outlive a restart; undefined: they do not, and initiators are told. */
  readonly reservationsPath: string | undefined
  readonly initiator: CredentialSource | undefined
  readonly target: CredentialSource | undefined
}

export type CredentialSource = { readonly user: string; readonly secretFile: string }

export type TargetEvent =
  | { readonly kind: 'ready'; readonly targetName: string; readonly endpoint: Endpoint; readonly sizeBytes: number }
  | { readonly kind: 'diskFailed'; readonly reason: string; readonly hint: string }
  | IscsiEvent

export interface RunningTarget {
  readonly targetName: string
  readonly local: Endpoint
  stop(): Promise<void>
}

/** How long initiators may take to log out when the target stops. */
const logoutGraceMs = 2_000
/** Memory that an ephemeral clone's changes may take. */
const ephemeralBytesMax = 4 * 1024 * 1024 * 1024

/** @throws {OperationError} fileMissing, badName, secretUnfit, portTaken, ... */
export async function startTarget(
  options: TargetOptions,
  listener: (event: TargetEvent) => void,
): Promise<RunningTarget> {
  const targetName = nameOf(options)
  const authentication = await authenticationOf(options)
  const { reservationsPath } = options
  const reservationStore = reservationsPath === undefined ? undefined : await openReservationFile(reservationsPath)
  const device = await openDevice(options)
  try {
    const deviceServer = createDeviceServer({
      targetName,
      disks: [
        {
          device,
          serialNumber: serialOf(targetName),
          logicalBlockBytes: options.blockBytes,
          physicalBlockBytes: options.physicalBlockBytes,
          ...(reservationStore === undefined ? {} : { reservationStore }),
        },
      ],
      report: (error) => {
        if (!(error instanceof OperationError)) throw error
        listener({ kind: 'diskFailed', reason: error.message, hint: error.hint })
      },
      pause: (milliseconds) => new Promise((resolve) => systemClock.after(milliseconds, resolve)),
    })
    const target = createIscsiTarget({
      network: systemTcp,
      clock: systemClock,
      random: systemRandom,
      hash: systemHash,
      directory: createDirectory(targetName, authentication, deviceServer),
      events: listener,
    })
    const { local } = await target.listen(options.listen)
    listener({ kind: 'ready', targetName, endpoint: local, sizeBytes: device.sizeBytes })
    return {
      targetName,
      local,
      stop: async () => {
        await target.close(logoutGraceMs)
        await device.close()
      },
    }
  } catch (error) {
    await device.close()
    throw error
  }
}

function createDirectory(
  targetName: string,
  authentication: Authentication,
  deviceServer: ReturnType<typeof createDeviceServer>,
): TargetDirectory {
  return {
    resolve: (attempt) =>
      attempt.targetName === targetName
        ? { kind: 'accept', authentication, deviceServer }
        : { kind: 'refuse', reason: 'notFound' },
    discover: () => ({ kind: 'accept', authentication }),
    list: (attempt) => [{ targetName, portals: [{ address: attempt.local.address, port: attempt.local.port }] }],
  }
}

async function openDevice({ imagePath, access, blockBytes }: TargetOptions): Promise<BlockDevice> {
  if (access.kind === 'inPlace') return openInPlace(imagePath, blockBytes)
  const golden = await openGolden(imagePath)
  if (access.kind === 'readOnly') return golden.device
  if (access.kind === 'clone') return openOrMakeClone(access.path, golden)
  return createOverlay({ golden: golden.device, changes: createMemoryFile(ephemeralBytesMax) })
}

async function openInPlace(path: string, blockBytes: 512 | 4096): Promise<BlockDevice> {
  const file = await openFile(path, 'readWrite')
  try {
    if ((await probeFormat(file)) === 'raw') return await openRawDevice(file, { blockBytes })
    return await openQcow2(file, { compression: nodeCompression, backing: besideIt })
  } catch (error) {
    await file.close()
    throw error
  }
}

function nameOf({ name, imagePath }: TargetOptions): string {
  if (name === undefined) {
    const words = basename(imagePath)
      .toLowerCase()
      .replaceAll(/[^a-z0-9.-]+/g, '-')
      .slice(0, 64)
    return `iqn.2026-01.internal.slipway:${words.replaceAll(/^[.-]+|[.-]+$/g, '') || 'disk'}`
  }
  const parsed = parseIscsiName(name)
  if (parsed !== undefined) return parsed
  const hint = 'Use one like iqn.2026-01.lab.example:disk1 (RFC 7143 section 4.2.7).'
  throw new OperationError('usage', `${name} is not an iSCSI name`, hint)
}

async function authenticationOf({ initiator, target }: TargetOptions): Promise<Authentication> {
  if (initiator === undefined) return { kind: 'none' }
  const proves = await credentialOf(initiator)
  if (target === undefined) return { kind: 'chap', initiator: [proves] }
  const answers = await credentialOf(target)
  if (secretsEqual(proves.secret, answers.secret)) {
    const hint = 'Make another one for --mutual-secret-file: whoever knows one would know both.'
    throw new OperationError('secretUnfit', 'the secrets of the two directions are the same', hint)
  }
  return { kind: 'chap', initiator: [{ ...proves, target: answers }] }
}

async function credentialOf({ user, secretFile }: CredentialSource): Promise<ChapCredential> {
  return { user, secret: await readSecretFile(secretFile) }
}

/** The same after every restart: initiators know a disk again by it. FNV-1a of the name, as hexadecimal digits. */
function serialOf(targetName: string): string {
  let hash = 0xcbf29ce484222325n
  for (let i = 0; i < targetName.length; i++) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(targetName.charCodeAt(i))) * 0x100000001b3n)
  }
  return hash.toString(16).padStart(16, '0')
}
