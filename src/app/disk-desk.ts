/**
 * Which disk a login gets, and what it must prove first. A machine's target is its clone; its credentials are those of the
 * boot whose script named it, so a script of an earlier boot opens nothing.
 */
import type { Mac } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { OperationError } from '../base/errors.ts'
import { type ByteSource, sourceOfDevice } from '../disk/source.ts'
import type { BootCredentials } from '../fleet/credentials.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { ClonePolicy } from '../fleet/machine.ts'
import { macOfTargetName, targetNameOf } from '../fleet/names.ts'
import type { BootDisk, BootDiskStore } from '../images/boot-disks.ts'
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
import { stageOfIsid } from '../journal/events.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import { createDeviceServer, type TargetDevice } from '../scsi/device-server.ts'
import type { DeviceServer, Nexus } from '../scsi/task.ts'
import type { BootTraces } from './boot-traces.ts'
import { nameOfClone } from './clone-files.ts'
import type { Clone, Clones } from './clones.ts'
import type { ChapMode } from './config.ts'
import { DiskSwitch } from './disk-switch.ts'
import type { EventStream } from './event-stream.ts'
import type { ImageShelf, MeantImage } from './shelf.ts'
import { WatchedDisk } from './watched-disk.ts'

export type DiskDeskParts = {
  readonly fleet: Fleet
  readonly clones: Clones
  readonly shelf: ImageShelf
  readonly bootDisks: BootDiskStore
  readonly traces: BootTraces
  /** For machines of which nothing is said themselves. */
  policyOf(image: string): ClonePolicy
  /** Names a clone of one boot: letters and digits that were never used before. */
  nextName(): string
  readonly events: EventStream
  readonly clock: Clock
  readonly chap: ChapMode
}

/** Sessions that must go: of a boot that has ended, or for which there is no disk. */
export type Unwanted = (session: SessionIdentity) => boolean

/**
 * How long a disk without sessions stays open: longer than from iPXE's last read to Linux's first login. Once it is closed,
 * `slipway clone` may have it.
 */
const idleMs = 15_000
/**
 * How long what a machine starts its kernel from stays what its disk will be: from the last read of its initramfs to Linux's
 * login, on a slow machine. A version that is published meanwhile would have another kernel's modules.
 */
const keptMs = 300_000

/** A clone with a device server in front of it. */
type OpenDisk = {
  readonly clone: Clone
  readonly server: WatchedDisk
  /** The device server itself: it may be at work when its last session has ended. */
  readonly inner: TargetDevice
  readonly policy: ClonePolicy
  announced: boolean
}

type MachineDisks = {
  readonly switch: DiskSwitch
  /** By the name of the clone's file. */
  readonly open: Map<string, OpenDisk>
  /** What the next boot to log in gets. */
  next: { readonly file: string; readonly policy: ClonePolicy; readonly image: MeantImage } | undefined
  /** `next` stays what it is: its kernel has been read. */
  keptUntilMs: number
  /** One login after the other. */
  queue: Promise<unknown>
  idle: Timer | undefined
  /** The last one that was told to have ended. */
  endedBootId: string | undefined
}

export class DiskDesk implements TargetDirectory {
  readonly #parts: DiskDeskParts
  readonly #machines = new Map<Mac, MachineDisks>()
  /** By initiator name and ISID: what a nexus and a session have in common. */
  readonly #sessions = new Map<string, number>()

  readonly #bootOfSession = new Map<number, { readonly mac: Mac; readonly bootId: string }>()

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
      const deviceServer = await this.#prepare(mac, targetName, boots)
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

  /** The machine was told how to find its disk and will ask for it in a moment. */
  expect(mac: Mac): void {
    const { fleet, shelf, traces } = this.#parts
    try {
      traces.expect(shelf.meant(fleet.assignmentFor(mac)).path)
    } catch (error) {
      // An image that is not there is told when the disk is asked for.
      if (!(error instanceof OperationError)) throw error
    }
  }

  /** The image that its next boot gets as it is. Undefined: the machine wrote so much that it may have a system of its own. */
  freshImageOf(mac: Mac): MeantImage | undefined {
    const { clones, fleet, policyOf, shelf } = this.#parts
    const assignment = fleet.assignmentFor(mac)
    const policy = assignment.clonePolicy ?? policyOf(assignment.image)
    return policy === 'persistent' && clones.hasWritten(mac) ? undefined : shelf.meant(assignment)
  }

  /**
   * What the machine's next boot will have on its disk, for reading its kernel before there is a login. Open for as long as it is
   * being read, and some minutes. @throws {OperationError} what opening a clone throws
   */
  openForBoot(mac: Mac): Promise<ByteSource> {
    const { clock, fleet } = this.#parts
    const machine = this.#machineOf(mac)
    const opened = machine.queue.then(async () => {
      machine.keptUntilMs = 0
      await this.#prepareNext(mac, targetNameOf(fleet.terms.namingAuthority, mac), machine)
      const disk = machine.open.get(machine.next?.file ?? '')
      assert(disk !== undefined, 'what was prepared is open')
      const keep = (): void => {
        machine.keptUntilMs = clock.nowMs() + keptMs
      }
      keep()
      this.#closeWhenIdle(mac, machine)
      const source = sourceOfDevice(disk.clone.device)
      return {
        sizeBytes: source.sizeBytes,
        read: (offset: number, bytes: number) => {
          keep()
          return source.read(offset, bytes)
        },
      }
    })
    machine.queue = opened.catch(() => undefined)
    return opened
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

  /** A session began: whose boot it is, and which sessions end by it. `user` is undefined where CHAP is off. */
  noteOpened(session: SessionIdentity, user: string | undefined): Unwanted | undefined {
    this.#sessions.set(nexusKey(session), session.sessionId)
    const mac = session.label
    if (mac === undefined) return undefined
    const { fleet, clock } = this.#parts
    const { boot, ended } =
      user === undefined ? fleet.loggedInUnproven(mac, clock.wallMs()) : fleet.credentialsUsed(mac, user)
    // Released while it was logging in.
    if (boot === undefined) return (other) => other.sessionId === session.sessionId
    this.#bootOfSession.set(session.sessionId, { mac, bootId: boot.bootId })
    if (ended !== undefined) this.#endBoot(mac, ended.bootId, 'nextBoot')
    if (!this.#giveDisk(mac, session, boot.bootId)) return (other) => this.bootOf(other) === boot.bootId
    return ended === undefined ? undefined : (other) => this.bootOf(other) === ended.bootId
  }

  /** Of which boot a session is; undefined when it was not proven. */
  bootOf(session: SessionIdentity): string | undefined {
    return this.#bootOfSession.get(session.sessionId)?.bootId
  }

  /** The fleet was changed by somebody else: machines may have been released or refused. */
  noteFleetChanged(): Unwanted {
    const ended = new Set<string>()
    for (const { mac, bootId } of this.#bootOfSession.values()) {
      const reason = this.#parts.fleet.endOf(mac, bootId)
      if (reason === undefined) continue
      ended.add(bootId)
      this.#endBoot(mac, bootId, reason)
    }
    return (session) => ended.has(this.bootOf(session) ?? '')
  }

  /** Told once, whatever ended it first. */
  #endBoot(mac: Mac, bootId: string, reason: 'nextBoot' | 'released' | 'refused'): void {
    const machine = this.#machines.get(mac)
    if (machine?.endedBootId === bootId) return
    if (machine !== undefined) machine.endedBootId = bootId
    this.#parts.events.emit({ mac }, { kind: 'credentialsEnded', bootId, reason })
  }

  noteClosed(session: SessionIdentity): void {
    this.#bootOfSession.delete(session.sessionId)
    if (this.#sessions.get(nexusKey(session)) === session.sessionId) this.#sessions.delete(nexusKey(session))
    const machine = session.label === undefined ? undefined : this.#machines.get(session.label)
    if (session.label === undefined || machine === undefined) return
    for (const disk of machine.open.values())
      if (machine.switch.userCount(disk.server) === 0) disk.server.tellProgress()
    this.#closeWhenIdle(session.label, machine)
  }

  /** Lets go of all disks; their sessions must have ended. */
  async close(): Promise<void> {
    for (const machine of this.#machines.values()) {
      machine.idle?.cancel()
      await machine.queue
      // What was queued may have begun to wait anew.
      machine.idle?.cancel()
      for (const { inner } of machine.open.values()) await inner.stop()
    }
    this.#machines.clear()
    await this.#parts.clones.closeAll()
  }

  #bootsOf(attempt: LoginAttempt): readonly BootCredentials[] {
    const { fleet, clock } = this.#parts
    const { namingAuthority } = fleet.terms
    const mac = macOfTargetName(namingAuthority, attempt.initiatorName.replace(':machine.', ':disk.'))
    return mac === undefined ? [] : fleet.candidatesFor(targetNameOf(namingAuthority, mac), clock.wallMs())
  }

  /** Opens what any of `boots` may be about to use: only the end of the login tells which of them it is. */
  #prepare(mac: Mac, targetName: string, boots: readonly BootCredentials[]): Promise<DeviceServer> {
    const machine = this.#machineOf(mac)
    const prepared = machine.queue.then(async () => {
      this.#closeWhenIdle(mac, machine)
      const running = this.#parts.bootDisks.bootDisk(mac)
      const mayGoOn = boots.some(({ bootId }) => bootId === running?.bootId)
      const mayBegin = boots.some(({ bootId }) => bootId !== running?.bootId)
      if (running !== undefined && mayGoOn) {
        try {
          await this.#reopen(mac, targetName, machine, running)
        } catch (error) {
          this.#report(mac, 'open the disk', error)
          if (!mayBegin) throw error
        }
      }
      if (mayBegin) await this.#prepareNext(mac, targetName, machine)
      return machine.switch
    })
    machine.queue = prepared.catch(() => undefined)
    return prepared
  }

  #machineOf(mac: Mac): MachineDisks {
    const known = this.#machines.get(mac)
    if (known !== undefined) return known
    const machine: MachineDisks = {
      switch: new DiskSwitch(),
      open: new Map(),
      next: undefined,
      keptUntilMs: 0,
      queue: Promise.resolve(),
      idle: undefined,
      endedBootId: undefined,
    }
    this.#machines.set(mac, machine)
    return machine
  }

  async #reopen(mac: Mac, targetName: string, machine: MachineDisks, { file, policy }: BootDisk): Promise<void> {
    if (machine.open.has(file)) return
    const known: ClonePolicy = policy === 'ephemeral' || policy === 'readOnly' ? policy : 'persistent'
    const clone = await this.#parts.clones.reopen(file, known === 'readOnly')
    machine.open.set(file, this.#serve(mac, targetName, clone, known))
  }

  async #prepareNext(mac: Mac, targetName: string, machine: MachineDisks): Promise<void> {
    const { clones, fleet, nextName, policyOf, shelf } = this.#parts
    const assignment = fleet.assignmentFor(mac)
    const policy = assignment.clonePolicy ?? policyOf(assignment.image)
    const image = shelf.meant(assignment)
    this.#parts.traces.expect(image.path)
    if (policy === 'persistent') {
      const file = nameOfClone(mac)
      if (!machine.open.has(file)) {
        machine.open.set(file, this.#serve(mac, targetName, await clones.openOwn(mac, image), policy))
      }
      machine.next = { file, policy, image }
      return
    }
    const spare = machine.next
    if (
      spare !== undefined &&
      spare.policy === policy &&
      (spare.image.path === image.path || this.#isKept(machine)) &&
      machine.open.has(spare.file)
    ) {
      return
    }
    const file = nameOfClone(mac, nextName())
    const clone = await clones.make(file, image, policy === 'readOnly')
    machine.open.set(file, this.#serve(mac, targetName, clone, policy))
    machine.next = { file, policy, image }
  }

  #isKept({ keptUntilMs }: MachineDisks): boolean {
    return this.#parts.clock.nowMs() < keptUntilMs
  }

  #serve(mac: Mac, targetName: string, clone: Clone, policy: ClonePolicy): OpenDisk {
    const { clock, events } = this.#parts
    const server = createDeviceServer({
      targetName,
      disks: [
        {
          device: clone.device,
          serialNumber: mac.replaceAll(/[^0-9a-z]/g, ''),
          reservationStore: clone.reservations,
          sanitizeStore: clone.sanitize,
        },
      ],
      report: (error) => this.#report(mac, 'use the disk', error),
      pause: (milliseconds) => new Promise((resolve) => clock.after(milliseconds, resolve)),
    })
    const sessionOf = (nexus: Nexus): number => this.#sessions.get(nexusKey(nexus)) ?? 0
    const watched = new WatchedDisk(server, clock, {
      firstRead: (nexus) => events.emit({ mac }, { kind: 'firstRead', sessionId: sessionOf(nexus) }),
      firstWrite: (nexus) => {
        // GRUB writes through iPXE, and may still fail to find its kernel.
        if (stageOfIsid(nexus.isid) !== 'ipxe') clone.recording?.isGood()
        events.emit({ mac }, { kind: 'firstWrite', sessionId: sessionOf(nexus) })
      },
      progress: (readBytes, writtenBytes) => events.emit({ mac }, { kind: 'progress', readBytes, writtenBytes }),
    })
    return { clone, server: watched, inner: server, policy, announced: false }
  }

  /** False: there is no disk for that boot. */
  #giveDisk(mac: Mac, session: SessionIdentity, bootId: string): boolean {
    const { bootDisks, events, shelf } = this.#parts
    const machine = this.#machines.get(mac)
    const running = bootDisks.bootDisk(mac)
    const begins = running?.bootId !== bootId
    const file = begins ? machine?.next?.file : running.file
    const disk = file === undefined ? undefined : machine?.open.get(file)
    if (machine === undefined || file === undefined || disk === undefined) return false
    if (begins) {
      bootDisks.setBootDisk(mac, { bootId, file, policy: disk.policy })
      machine.next = undefined
      machine.queue = machine.queue.then(() => this.#discardOthers(mac, machine))
    }
    machine.switch.give(nexusKey(session), disk.server)
    if (stageOfIsid(session.isid) === 'system') disk.clone.recording?.isGood()
    if (!disk.announced) {
      disk.announced = true
      const { path, goldenPath } = disk.clone
      events.emit({ mac }, { kind: 'cloneReady', image: shelf.labelOf(goldenPath), policy: disk.policy, path })
    }
    return true
  }

  /** What earlier boots wrote, and clones that nobody came for. Those that still have sessions go when these have ended. */
  async #discardOthers(mac: Mac, machine: MachineDisks): Promise<void> {
    const { bootDisks, clones } = this.#parts
    const keep = new Set([bootDisks.bootDisk(mac)?.file, machine.next?.file])
    try {
      for (const file of await clones.filesOfBoots(mac)) {
        const disk = machine.open.get(file)
        if (keep.has(file) || (disk !== undefined && isUsed(machine, disk))) continue
        machine.open.delete(file)
        await clones.discard(file)
      }
    } catch (error) {
      this.#report(mac, 'discard an old clone', error)
    }
  }

  #closeWhenIdle(mac: Mac, machine: MachineDisks): void {
    machine.idle?.cancel()
    machine.idle = this.#parts.clock.after(idleMs, () => {
      machine.queue = machine.queue.then(() => this.#closeUnused(mac, machine))
    })
  }

  async #closeUnused(mac: Mac, machine: MachineDisks): Promise<void> {
    for (const [file, disk] of machine.open) {
      if (machine.switch.userCount(disk.server) > 0) continue
      const isSpare = machine.next?.file === file
      if (disk.inner.isBusy || (isSpare && this.#isKept(machine))) {
        this.#closeWhenIdle(mac, machine)
        continue
      }
      machine.open.delete(file)
      if (isSpare) machine.next = undefined
      const ending =
        isSpare && disk.policy !== 'persistent' ? this.#parts.clones.discard(file) : this.#parts.clones.close(file)
      await ending.catch((error: unknown) => this.#report(mac, 'close the disk', error))
    }
  }

  #report(mac: Mac, operation: string, error: unknown): void {
    if (!(error instanceof OperationError)) throw error
    const { message, hint } = error
    this.#parts.events.emit({ mac }, { kind: 'diskFailed', operation, reason: message, hint })
  }
}

/** By a session, or by what sessions left behind: a SANITIZE, a write that the device has not ended. */
function isUsed(machine: MachineDisks, { server, inner }: OpenDisk): boolean {
  return machine.switch.userCount(server) > 0 || inner.isBusy
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
