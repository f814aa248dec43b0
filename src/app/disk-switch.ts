/**
 * One target, several disks: a session gets the disk of the boot it belongs to, which is known when its login has ended. Each
 * session keeps its disk; a session that was given none is told BUSY.
 */
import { transferBytesMax } from '../scsi/limits.ts'
import { type DeviceServer, type Nexus, scsiStatus, type Task, type TaskManagement } from '../scsi/task.ts'

const noSense = new Uint8Array(0)
export class DiskSwitch implements DeviceServer {
  /** By initiator name and ISID: sessions that have not been given a disk yet, and those that have. */
  readonly #nexuses = new Map<string, Nexus>()
  readonly #disks = new Map<Nexus, DeviceServer>()
  readonly dataOutBytesMax: number = transferBytesMax

  attach(nexus: Nexus): void {
    this.#nexuses.set(keyOf(nexus), nexus)
  }

  /** `key` is `INITIATOR,ISID` of a session that has just attached. */
  give(key: string, disk: DeviceServer): void {
    const nexus = this.#nexuses.get(key)
    if (nexus === undefined || this.#disks.has(nexus)) return
    this.#disks.set(nexus, disk)
    disk.attach(nexus)
  }

  detach(nexus: Nexus): void {
    if (this.#nexuses.get(keyOf(nexus)) === nexus) this.#nexuses.delete(keyOf(nexus))
    this.#disks.get(nexus)?.detach(nexus)
    this.#disks.delete(nexus)
  }

  execute(task: Task): void {
    const disk = this.#disks.get(task.nexus)
    if (disk === undefined) task.fail(scsiStatus.busy, noSense)
    else disk.execute(task)
  }

  manage(nexus: Nexus, lun: Uint8Array, request: TaskManagement, losers?: readonly Nexus[]): 'done' | 'lunMissing' {
    return this.#disks.get(nexus)?.manage(nexus, lun, request, losers) ?? 'lunMissing'
  }

  /** How many sessions have it. */
  userCount(disk: DeviceServer): number {
    let count = 0
    for (const used of this.#disks.values()) if (used === disk) count++
    return count
  }
}

function keyOf({ initiatorName, isid }: Nexus): string {
  return `${initiatorName},${isid}`
}
