/**
 * A machine's disk, watched: tells when its machine first reads and first writes, and how much it has moved since. Stands in
 * front of the device server and hands everything on as it is.
 */
import type { Clock, Timer } from '../ports/clock.ts'
import type { DeviceServer, Nexus, Task, TaskManagement } from '../scsi/task.ts'

export interface DiskWatcher {
  firstRead(nexus: Nexus): void
  firstWrite(nexus: Nexus): void
  /** All sessions together, since the disk was opened; at most once in `progressMs`. */
  progress(readBytes: number, writtenBytes: number): void
}

const progressMs = 1_000
/** READ and WRITE of 6, 10, 12 and 16 bytes (SBC-3). */
const readOpcodes: ReadonlySet<number> = new Set([0x08, 0x28, 0xa8, 0x88])
const writeOpcodes: ReadonlySet<number> = new Set([0x0a, 0x2a, 0xaa, 0x8a])

export class WatchedDisk implements DeviceServer {
  readonly dataOutBytesMax: number
  readonly #inner: DeviceServer
  readonly #clock: Clock
  readonly #watcher: DiskWatcher
  readonly #hasRead = new WeakSet<Nexus>()
  readonly #hasWritten = new WeakSet<Nexus>()
  #readBytes = 0
  #writtenBytes = 0
  #timer: Timer | undefined

  constructor(inner: DeviceServer, clock: Clock, watcher: DiskWatcher) {
    this.dataOutBytesMax = inner.dataOutBytesMax
    this.#inner = inner
    this.#clock = clock
    this.#watcher = watcher
  }

  attach(nexus: Nexus): void {
    this.#inner.attach(nexus)
  }

  detach(nexus: Nexus): void {
    this.#inner.detach(nexus)
  }

  execute(task: Task): void {
    const opcode = task.cdb[0] ?? 0
    if (readOpcodes.has(opcode)) this.#note(task, this.#hasRead, task.dataInBytesMax, 0)
    else if (writeOpcodes.has(opcode)) this.#note(task, this.#hasWritten, 0, task.dataOutBytes)
    this.#inner.execute(task)
  }

  manage(nexus: Nexus, lun: Uint8Array, request: TaskManagement, losers?: readonly Nexus[]): 'done' | 'lunMissing' {
    return this.#inner.manage(nexus, lun, request, losers)
  }

  /** Says how far it came, now: when its last session has ended. */
  tellProgress(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    this.#watcher.progress(this.#readBytes, this.#writtenBytes)
  }

  #note(task: Task, seen: WeakSet<Nexus>, readBytes: number, writtenBytes: number): void {
    this.#readBytes += readBytes
    this.#writtenBytes += writtenBytes
    this.#timer ??= this.#clock.after(progressMs, () => this.tellProgress())
    if (seen.has(task.nexus)) return
    seen.add(task.nexus)
    if (seen === this.#hasRead) this.#watcher.firstRead(task.nexus)
    else this.#watcher.firstWrite(task.nexus)
  }
}
