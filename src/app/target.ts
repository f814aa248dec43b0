/** `slipway target`: disk images by iSCSI, and nothing of booting. */
import { OperationError } from '../base/errors.ts'
import { secretsEqual } from '../base/secret.ts'
import { parseIscsiName } from '../fleet/names.ts'
import { basename } from '../host/path.ts'
import { readSecretFile } from '../host/secret-file.ts'
import type { Authentication, ChapCredential } from '../iscsi/policy.ts'
import type { Endpoint } from '../ports/udp.ts'
import { placeOf } from './golden.ts'
import { isNbdUri, parseNbdUri } from './nbd-disk.ts'
import { type DiskEvent, type DiskOptions, serveDisks, type TargetAccess } from './served-disks.ts'
import { serveByWorkers, type WorkerEvent } from './target-workers.ts'

export type TargetOptions = {
  /** One target each. */
  readonly imagePaths: readonly string[]
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
  /** Processes that the targets are spread over; 0: all in this one. */
  readonly workerCount: number
}

export type CredentialSource = { readonly user: string; readonly secretFile: string }

export type TargetEvent =
  | { readonly kind: 'ready'; readonly targetName: string; readonly endpoint: Endpoint; readonly sizeBytes: number }
  | DiskEvent
  | WorkerEvent

export interface RunningTarget {
  readonly local: Endpoint
  stop(): Promise<void>
}

/** @throws {OperationError} usage, fileMissing, badName, secretUnfit, portTaken, workerFailed, ... */
export async function startTarget(
  options: TargetOptions,
  listener: (event: TargetEvent) => void,
): Promise<RunningTarget> {
  const { listen, workerCount } = options
  const disks = disksOf(options)
  const authentication = await authenticationOf(options)
  const what = { disks, authentication, listen }
  const served =
    workerCount === 0 ? await serveDisks(what, listener) : await serveByWorkers({ ...what, workerCount }, listener)
  for (const [index, { targetName }] of disks.entries()) {
    listener({ kind: 'ready', targetName, endpoint: served.local, sizeBytes: served.sizesBytes[index] ?? 0 })
  }
  return { local: served.local, stop: () => served.stop() }
}

function disksOf(options: TargetOptions): readonly DiskOptions[] {
  const { imagePaths, access, reservationsPath, workerCount } = options
  if (imagePaths.length > 1) refuseWhatIsOfOneDisk(options)
  if (workerCount > imagePaths.length) {
    const hint = 'A target lives in one worker at a time: name more images, or ask for fewer workers.'
    throw new OperationError('usage', `${workerCount} workers for ${imagePaths.length} images`, hint)
  }
  const { blockBytes, physicalBlockBytes } = options
  const taken = new Set<string>()
  return imagePaths.map((imagePath) => {
    const targetName = freeName(nameOf(options, imagePath), taken)
    taken.add(targetName)
    return { targetName, imagePath, access, blockBytes, physicalBlockBytes, reservationsPath }
  })
}

function refuseWhatIsOfOneDisk({ imagePaths, name, access, reservationsPath }: TargetOptions): void {
  const option =
    name !== undefined
      ? '--name'
      : access.kind === 'clone'
        ? '--clone'
        : reservationsPath !== undefined
          ? '--reservations'
          : undefined
  if (option !== undefined) {
    const hint = `Name one image, or start one target for each image that needs ${option}.`
    throw new OperationError('usage', `${option} is for one image, and there are ${imagePaths.length}`, hint)
  }
  const paths = imagePaths.map((path) => placeOf('.', path))
  const twice = paths.find((path, index) => paths.indexOf(path) !== index)
  if (access.kind !== 'inPlace' || twice === undefined) return
  const hint = 'Two targets that write to one image destroy it: name it once, or leave --in-place out.'
  throw new OperationError('usage', `${twice} is named twice with --in-place`, hint)
}

/** The same image twice is two disks: disk, disk-2. */
function freeName(name: string, taken: ReadonlySet<string>): string {
  for (let number = 1; ; number++) {
    const candidate = number === 1 ? name : `${name}-${number}`
    if (!taken.has(candidate)) return candidate
  }
}

function nameOf({ name }: TargetOptions, imagePath: string): string {
  if (name === undefined) {
    const words = (isNbdUri(imagePath) ? parseNbdUri(imagePath).exportName : basename(imagePath))
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
