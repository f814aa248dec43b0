/** Which sessions there are, and what one session has to know of the others. RFC 7143 §4.4.3, §6.3.5. */
import type { DeviceServer } from '../scsi/task.ts'
import type { Session } from './session.ts'

/** Initiator name, ISID and target portal group name one session (I_T nexus). */
export function sessionKey(names: {
  readonly initiatorName: string
  readonly isid: string
  readonly targetName: string
  readonly targetPort: number
}): string {
  return `${names.targetName},${names.targetPort},${names.initiatorName},${names.isid}`
}

export class SessionRegistry {
  readonly #all = new Set<Session>()
  readonly #byKey = new Map<string, Session>()
  /** Sessions that ended while commands of theirs were executing: what they still write must not meet their successor. */
  readonly #draining = new Map<string, Set<Session>>()
  readonly #byServer = new Map<DeviceServer, Set<Session>>()
  readonly #countByAddress = new Map<string, number>()
  readonly #handles = new Set<number>()
  #lastHandle = 0
  #lastId = 0

  get size(): number {
    return this.#all.size
  }

  all(): readonly Session[] {
    return [...this.#all]
  }

  /** Sessions from this address. */
  countFrom(address: string): number {
    return this.#countByAddress.get(address) ?? 0
  }

  /** The oldest discovery session of the address that has most sessions: what is missed least when there is no room. */
  leastMissed(): Session | undefined {
    let worst: string | undefined
    for (const address of this.#countByAddress.keys()) {
      if (worst === undefined || this.countFrom(address) > this.countFrom(worst)) worst = address
    }
    for (const session of this.#all) {
      if (session.key === undefined && session.identity.remote.address === worst) return session
    }
    return undefined
  }

  find(key: string): Session | undefined {
    return this.#byKey.get(key)
  }

  nextId(): number {
    return ++this.#lastId
  }

  /** A TSIH that nobody has; never 0. */
  newHandle(): number {
    do this.#lastHandle = (this.#lastHandle % 0xffff) + 1
    while (this.#handles.has(this.#lastHandle))
    return this.#lastHandle
  }

  add(session: Session): void {
    this.#all.add(session)
    const { address } = session.identity.remote
    this.#countByAddress.set(address, this.countFrom(address) + 1)
    this.#handles.add(session.handle)
    if (session.key !== undefined) this.#byKey.set(session.key, session)
    if (session.deviceServer === undefined) return
    const sharing = this.#byServer.get(session.deviceServer)
    if (sharing === undefined) this.#byServer.set(session.deviceServer, new Set([session]))
    else sharing.add(session)
  }

  remove(session: Session): void {
    if (!this.#all.delete(session)) return
    this.#handles.delete(session.handle)
    const { address } = session.identity.remote
    const count = this.countFrom(address) - 1
    if (count === 0) this.#countByAddress.delete(address)
    else this.#countByAddress.set(address, count)
    const { key, deviceServer } = session
    if (key !== undefined) {
      if (this.#byKey.get(key) === session) this.#byKey.delete(key)
      if (!session.isQuiet) this.#drain(key, session)
    }
    if (deviceServer === undefined) return
    const sharing = this.#byServer.get(deviceServer)
    sharing?.delete(session)
    if (sharing?.size === 0) this.#byServer.delete(deviceServer)
  }

  /** Sessions that see the same logical units, `session` among them. */
  sharing(session: Session): readonly Session[] {
    return session.deviceServer === undefined ? [] : [...(this.#byServer.get(session.deviceServer) ?? [])]
  }

  /** Commands of ended sessions with this key still execute. */
  isDraining(key: string): boolean {
    return this.#draining.has(key)
  }

  /** Calls `then` when no command of an ended session with this key executes any more; at once if that is so. */
  whenDrained(key: string, then: () => void): void {
    const [first] = this.#draining.get(key) ?? []
    if (first === undefined) then()
    else first.whenQuiet(() => this.whenDrained(key, then))
  }

  /** Resolves when no command of an ended session that `choose` names executes any more. */
  async drained(choose: (session: Session) => boolean): Promise<void> {
    const draining = [...this.#draining.values()].flatMap((sessions) => [...sessions].filter(choose))
    await Promise.all(draining.map((session) => new Promise<void>((quiet) => session.whenQuiet(quiet))))
  }

  #drain(key: string, session: Session): void {
    const draining = this.#draining.get(key) ?? new Set()
    draining.add(session)
    this.#draining.set(key, draining)
    session.whenQuiet(() => {
      draining.delete(session)
      if (draining.size === 0 && this.#draining.get(key) === draining) this.#draining.delete(key)
    })
  }
}
