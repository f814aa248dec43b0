/**
 * A target's logical units, behind the seam of task.ts. LUN 0 is the machine's disk; the REPORT LUNS well-known unit
 * answers beside it; every other LUN is told that nothing is there. SAM-5 §4.7, SPC-4 §6.6.2 and §8.
 */
import { u16 } from '../wire/big-endian.ts'
import { respond } from './command.ts'
import { peripheral, standardInquiry } from './inquiry.ts'
import { transferBytesMax } from './limits.ts'
import { type DiskOptions, LogicalUnit, type TargetContext } from './logical-unit.ts'
import { decodeLun, reportLuns } from './report-luns.ts'
import { CheckCondition, condition, encodeSense, invalidCdbField } from './sense.ts'
import { type DeviceServer, type Nexus, scsiStatus, type Task, type TaskManagement } from './task.ts'
import { isNamed } from './vpd.ts'

export interface TargetOptions {
  /** The iSCSI name, for designators. */
  readonly targetName: string
  /** How many target ports (portal groups) there are. Default 1. */
  readonly portCount?: number
  /** The index is the LUN. */
  readonly disks: readonly DiskOptions[]
  /** A device's error, or a mistake of ours, that ended a task: for the log. */
  readonly report?: (error: unknown) => void
  /** Lets SANITIZE go slowly. Without it, it goes as fast as the device. */
  readonly pause?: (milliseconds: number) => Promise<void>
}

export interface TargetDevice extends DeviceServer {
  /** The disk's device has another size now: tells every initiator. */
  capacityChanged(lun: number): void
  /** A device is at work, also for sessions that have ended (SANITIZE, tasks that end late): do not close it. */
  readonly isBusy: boolean
  /** When no session is left: resolves when the devices may be closed. A SANITIZE is cut off, and has then failed. */
  stop(): Promise<void>
}

export function createDeviceServer(options: TargetOptions): TargetDevice {
  return new Target(options)
}

class Target implements TargetDevice {
  readonly dataOutBytesMax: number = transferBytesMax
  readonly #units: readonly LogicalUnit[]
  readonly #luns: readonly number[]

  constructor(options: TargetOptions) {
    this.#luns = options.disks.map((_, lun) => lun)
    const context: TargetContext = {
      targetName: options.targetName,
      portCount: options.portCount ?? 1,
      luns: this.#luns,
      unitNamed: (type, designator) => this.#units.find((unit) => isNamed(unit, type, designator)),
      report: options.report ?? (() => undefined),
      pause: options.pause ?? (() => Promise.resolve()),
    }
    this.#units = options.disks.map((disk, lun) => new LogicalUnit(lun, disk, context))
  }

  attach(nexus: Nexus): void {
    for (const unit of this.#units) unit.attach(nexus)
  }

  detach(nexus: Nexus): void {
    for (const unit of this.#units) unit.detach(nexus)
  }

  execute(task: Task): void {
    const lun = decodeLun(task.lun)
    const unit = typeof lun === 'number' ? this.#units[lun] : undefined
    if (unit !== undefined) unit.execute(task)
    else this.#executeElsewhere(task, lun === 'reportLuns')
  }

  manage(nexus: Nexus, lun: Uint8Array, request: TaskManagement, losers: readonly Nexus[] = []): 'done' | 'lunMissing' {
    if (request === 'targetReset') {
      for (const unit of this.#units) unit.reset(condition.busDeviceReset)
      return 'done'
    }
    const number = decodeLun(lun)
    if (number === 'reportLuns') return 'done'
    const unit = number === undefined ? undefined : this.#units[number]
    if (unit === undefined) return 'lunMissing'
    if (request === 'logicalUnitReset') unit.reset(condition.busDeviceReset)
    if (request === 'clearTaskSet') unit.tasksCleared(nexus, losers)
    return 'done'
  }

  capacityChanged(lun: number): void {
    this.#units[lun]?.capacityChanged()
  }

  get isBusy(): boolean {
    return this.#units.some((unit) => unit.isBusy)
  }

  async stop(): Promise<void> {
    await Promise.all(this.#units.map((unit) => unit.stop()))
  }

  /** The well-known unit, or none at all. */
  #executeElsewhere(task: Task, isWellKnown: boolean): void {
    try {
      task.good(this.#answerElsewhere(task, isWellKnown))
    } catch (error) {
      if (!(error instanceof CheckCondition)) throw error
      task.fail(scsiStatus.checkCondition, encodeSense(error.condition, error.detail, false))
    }
  }

  #answerElsewhere(task: Task, isWellKnown: boolean): number {
    const { cdb } = task
    switch (cdb[0]) {
      case 0x12: {
        // SPC-4 §6.6.2: standard data says that nothing is there; there are no pages.
        if (((cdb[1] as number) & 0x01) !== 0 || cdb[2] !== 0) throw invalidCdbField(1, 0)
        const names = { vendor: 'SLIPWAY', product: 'TARGET', revision: '1' }
        const kind = isWellKnown ? peripheral.wellKnown : peripheral.nothing
        return respond(task, standardInquiry(kind, names), u16(cdb, 3))
      }
      case 0x03: {
        const what = isWellKnown ? condition.none : condition.unitNotSupported
        return respond(task, encodeSense(what, {}, ((cdb[1] as number) & 0x01) !== 0), cdb[4] as number)
      }
      case 0xa0:
        if (isWellKnown) return reportLuns(task, this.#luns)
        throw new CheckCondition(condition.unitNotSupported)
      case 0x00:
        if (isWellKnown) return 0
        throw new CheckCondition(condition.unitNotSupported)
      default:
        throw new CheckCondition(isWellKnown ? condition.invalidOpcode : condition.unitNotSupported)
    }
  }
}
