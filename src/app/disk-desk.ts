/**
 * Which disk a login gets, and what it must prove first. A machine's target is its clone; its credentials are those of the
 * boot whose script named it, so a script of an earlier boot opens nothing.
 */
import type { Mac } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import type { BootCredentials } from '../fleet/credentials.ts'
import type { Fleet } from '../fleet/fleet.ts'
import { macOfTargetName, targetNameOf } from '../fleet/names.ts'
import type {
  Authentication,
  DiscoveryVerdict,
  InitiatorCredential,
  LoginAttempt,
  SessionIdentity,
  TargetDirectory,
  TargetListing,
  Verdict,
} from '../iscsi/policy.ts'
import type { Clock } from '../ports/clock.ts'
import { createDeviceServer } from '../scsi/device-server.ts'
import type { Nexus } from '../scsi/task.ts'
import type { Clones } from './clones.ts'
import type { ChapMode } from './config.ts'
import type { EventStream } from './event-stream.ts'
import { WatchedDisk } from './watched-disk.ts'

export type DiskDeskParts = {
  readonly fleet: Fleet
  readonly clones: Clones
  readonly events: EventStream
  readonly clock: Clock
  readonly chap: ChapMode
}

/** Its credentials are worth nothing any more, and its sessions must go. */
export type EndedBoot = { readonly bootId: string }

export class DiskDesk implements TargetDirectory {
  readonly #parts: DiskDeskParts
  readonly #disks = new Map<Mac, WatchedDisk>()
  /** By initiator name and ISID: what a nexus and a session have in common. */
  readonly #sessions = new Map<string, number>()

  readonly #bootOfSession = new Map<number, string>()

  constructor(parts: DiskDeskParts) {
    this.#parts = parts
  }

  async resolve(attempt: LoginAttempt): Promise<Verdict> {
    const { fleet, clock, chap } = this.#parts
    const targetName = attempt.targetName ?? ''
    const mac = macOfTargetName(fleet.terms.namingAuthority, targetName)
    if (mac === undefined) return { kind: 'refuse', reason: 'notFound' }
    if (fleet.machine(mac)?.decision === 'refused') return { kind: 'refuse', reason: 'forbidden' }
    const boots = fleet
      .candidatesFor(targetName, clock.wallMs())
      .filter((boot) => boot.initiatorName === attempt.initiatorName)
    if (boots.length === 0) return { kind: 'refuse', reason: 'forbidden' }
    try {
      const deviceServer = await this.#disk(mac, targetName)
      const alias = fleet.machine(mac)?.name
      return {
        kind: 'accept',
        authentication: authenticationOf(chap, boots),
        deviceServer,
        label: mac,
        ...(alias === undefined ? {} : { alias }),
      }
    } catch (error) {
      this.#report(mac, 'open the disk', error)
      return { kind: 'refuse', reason: 'unavailable' }
    }
  }

  /** A machine that may log in may ask where its own disk is; nobody is told of others'. */
  discover(attempt: LoginAttempt): DiscoveryVerdict {
    const boots = this.#bootsOf(attempt)
    if (boots.length === 0) return { kind: 'refuse', reason: 'forbidden' }
    return { kind: 'accept', authentication: authenticationOf(this.#parts.chap, boots) }
  }

  list(attempt: LoginAttempt): readonly TargetListing[] {
    const portal = { address: attempt.local.address, port: attempt.local.port }
    const names = new Set(this.#bootsOf(attempt).map((boot) => boot.targetName))
    return [...names].map((targetName) => ({ targetName, portals: [portal] }))
  }

  /** A session began: whose boot it is, and which boot has ended by it. `user` is undefined where CHAP is off. */
  noteOpened(session: SessionIdentity, user: string | undefined): EndedBoot | undefined {
    this.#sessions.set(nexusKey(session), session.sessionId)
    const mac = session.label
    if (mac === undefined) return undefined
    const { fleet, clock } = this.#parts
    const { boot, ended } =
      user === undefined ? fleet.loggedInUnproven(mac, clock.wallMs()) : fleet.credentialsUsed(mac, user)
    if (boot !== undefined) this.#bootOfSession.set(session.sessionId, boot.bootId)
    if (ended === undefined) return undefined
    this.#parts.events.emit({ mac }, { kind: 'credentialsEnded', bootId: ended.bootId, reason: 'nextBoot' })
    return { bootId: ended.bootId }
  }

  /** Of which boot a session is; undefined when it was not proven. */
  bootOf(session: SessionIdentity): string | undefined {
    return this.#bootOfSession.get(session.sessionId)
  }

  noteClosed(session: SessionIdentity): void {
    this.#bootOfSession.delete(session.sessionId)
    if (this.#sessions.get(nexusKey(session)) === session.sessionId) this.#sessions.delete(nexusKey(session))
    if (session.label !== undefined) this.#disks.get(session.label)?.tellProgress()
  }

  /** Lets go of the machine's disk; its sessions must have ended. */
  async close(): Promise<void> {
    this.#disks.clear()
    await this.#parts.clones.close()
  }

  #bootsOf(attempt: LoginAttempt): readonly BootCredentials[] {
    const { fleet, clock } = this.#parts
    const { namingAuthority } = fleet.terms
    const mac = macOfTargetName(namingAuthority, attempt.initiatorName.replace(':machine.', ':disk.'))
    return mac === undefined ? [] : fleet.candidatesFor(targetNameOf(namingAuthority, mac), clock.wallMs())
  }

  async #disk(mac: Mac, targetName: string): Promise<WatchedDisk> {
    const known = this.#disks.get(mac)
    if (known !== undefined) return known
    const clone = await this.#parts.clones.open(mac)
    const again = this.#disks.get(mac)
    if (again !== undefined) return again // another login came first
    const { clock, events, fleet } = this.#parts
    const server = createDeviceServer({
      targetName,
      disks: [{ device: clone.device, serialNumber: mac.replaceAll(/[^0-9a-z]/g, '') }],
      report: (error) => this.#report(mac, 'use the disk', error),
      pause: (milliseconds) => new Promise((resolve) => clock.after(milliseconds, resolve)),
    })
    const sessionOf = (nexus: Nexus): number => this.#sessions.get(nexusKey(nexus)) ?? 0
    const disk = new WatchedDisk(server, clock, {
      firstRead: (nexus) => events.emit({ mac }, { kind: 'firstRead', sessionId: sessionOf(nexus) }),
      firstWrite: (nexus) => events.emit({ mac }, { kind: 'firstWrite', sessionId: sessionOf(nexus) }),
      progress: (readBytes, writtenBytes) => events.emit({ mac }, { kind: 'progress', readBytes, writtenBytes }),
    })
    this.#disks.set(mac, disk)
    const { image, clonePolicy } = fleet.terms.assignment
    events.emit({ mac }, { kind: 'cloneReady', image, policy: clonePolicy, path: clone.path })
    return disk
  }

  #report(mac: Mac, operation: string, error: unknown): void {
    if (!(error instanceof OperationError)) throw error
    const { message, hint } = error
    this.#parts.events.emit({ mac }, { kind: 'diskFailed', operation, reason: message, hint })
  }
}

function authenticationOf(chap: ChapMode, boots: readonly BootCredentials[]): Authentication {
  if (chap === 'none') return { kind: 'none' }
  const mutual = chap === 'mutual'
  const initiator: InitiatorCredential[] = boots.map((boot) => ({
    ...boot.initiator,
    ...(mutual ? { target: boot.target } : {}),
  }))
  return { kind: 'chap', initiator, mutualRequired: mutual }
}

function nexusKey({ initiatorName, isid }: { readonly initiatorName: string; readonly isid: string }): string {
  return `${initiatorName},${isid}`
}
