/** An iSCSI target on a simulated network: every chunk cut anywhere, time that passes only when asked. */
import { seededRandom } from '../../src/base/random.ts'
import type { BlockDevice } from '../../src/block/device.ts'
import { createMemoryDevice } from '../../src/block/memory.ts'
import { systemHash } from '../../src/host/hash.ts'
import { connectInitiator, type InitiatorOptions, type InitiatorSession } from '../../src/iscsi/initiator.ts'
import type { Authentication, IscsiEvent, TargetDirectory } from '../../src/iscsi/policy.ts'
import { createIscsiTarget, type IscsiTarget } from '../../src/iscsi/server.ts'
import type { Random } from '../../src/ports/random.ts'
import type { TcpHandler } from '../../src/ports/tcp.ts'
import { createDeviceServer } from '../../src/scsi/device-server.ts'
import type { DeviceServer } from '../../src/scsi/task.ts'
import { VirtualClock } from './clock.ts'
import { SimulatedTcp, type TcpLink } from './tcp.ts'

export const targetName = 'iqn.2026-01.lab.boot:tiny'
export const initiatorName = 'iqn.2026-01.lab.client:golden'
export const portal = { address: '10.0.0.1', port: 3260 } as const

export type WorldOptions = {
  readonly seed?: number
  readonly link?: Partial<TcpLink>
  readonly authentication?: Authentication
  readonly device?: BlockDevice
  readonly deviceServer?: DeviceServer
  readonly directory?: Partial<TargetDirectory>
  readonly random?: Random
  /** Of the one target; default `targetName`. */
  readonly name?: string
}

export type World = {
  readonly clock: VirtualClock
  readonly network: SimulatedTcp
  readonly target: IscsiTarget
  readonly events: readonly IscsiEvent[]
  readonly random: Random
  /** Lets time pass until the promise has settled; fails after ten virtual minutes. */
  wait<Value>(promise: Promise<Value>): Promise<Value>
  /** Lets this much time pass. */
  pass(milliseconds: number): Promise<void>
  login(options?: Partial<InitiatorOptions>): Promise<InitiatorSession>
  /** A discovery session. */
  discover(options?: Partial<InitiatorOptions>): Promise<InitiatorSession>
  /** Writes raw bytes to the target from `address`; what comes back is in `received`. */
  raw(address?: string): Promise<RawClient>
}

export type RawClient = {
  readonly received: Uint8Array[]
  readonly isClosed: () => boolean
  write(bytes: Uint8Array): void
  pause(): void
  resume(): void
  destroy(): void
}

export async function createWorld(options: WorldOptions = {}): Promise<World> {
  const seed = options.seed ?? 1
  const clock = new VirtualClock()
  const unit = seededRandom(seed)
  const link: TcpLink = { delayMs: 1, windowBytes: 65_536, segmentBytesMax: 1_460, ...options.link }
  const network = new SimulatedTcp(clock, unit, link)
  const random: Random = options.random ?? {
    bytes: (count) => Uint8Array.from({ length: count }, () => Math.floor(unit() * 256)),
  }
  const events: IscsiEvent[] = []
  const deviceServer =
    options.deviceServer ??
    createDeviceServer({
      targetName,
      disks: [{ device: options.device ?? createMemoryDevice(4 * 1024 * 1024), serialNumber: 'TEST1' }],
    })
  const authentication = options.authentication ?? { kind: 'none' }
  const target = createIscsiTarget({
    network,
    clock,
    random,
    hash: systemHash,
    directory: {
      resolve: (attempt) =>
        attempt.targetName === (options.name ?? targetName)
          ? { kind: 'accept', authentication, deviceServer, alias: 'tiny' }
          : { kind: 'refuse', reason: 'notFound' },
      discover: () => ({ kind: 'accept', authentication }),
      list: () => [{ targetName, portals: [{ ...portal, group: 1 }] }],
      ...options.directory,
    },
    events: (event) => events.push(event),
  })
  await target.listen(portal)

  const wait = async <Value>(promise: Promise<Value>): Promise<Value> => {
    let settled = false
    const mark = (): void => {
      settled = true
    }
    promise.then(mark, mark)
    if (!(await clock.run(() => settled, 600_000))) throw new Error('nothing happens any more')
    return promise
  }
  const usual: InitiatorOptions = { network, random, hash: systemHash, to: portal, initiatorName }
  return {
    clock,
    network,
    target,
    events,
    random,
    wait,
    pass: async (milliseconds) => {
      const end = clock.nowMs() + milliseconds
      clock.after(milliseconds, () => {})
      await clock.run(() => clock.nowMs() >= end, milliseconds)
    },
    login: (chosen) => wait(connectInitiator({ ...usual, targetName, ...chosen })),
    discover: (chosen) => wait(connectInitiator({ ...usual, ...chosen })),
    raw: async (address = '10.0.1.9') => {
      const received: Uint8Array[] = []
      let closed = false
      const handler: TcpHandler = {
        onData: (chunk) => received.push(chunk.slice()),
        onClose: () => {
          closed = true
        },
      }
      const wire = await network.connectFrom(address, portal, () => handler)
      return {
        received,
        isClosed: () => closed,
        write: (bytes) => wire.write(bytes),
        pause: () => wire.pause(),
        resume: () => wire.resume(),
        destroy: () => wire.destroy(),
      }
    },
  }
}

/** CDBs that tests send. */
export const testUnitReady: Uint8Array = new Uint8Array(6)

export function read10(lba: number, blocks: number): Uint8Array {
  return tenBytes(0x28, lba, blocks)
}

export function write10(lba: number, blocks: number): Uint8Array {
  return tenBytes(0x2a, lba, blocks)
}

function tenBytes(opcode: number, lba: number, blocks: number): Uint8Array {
  const bytes = new Uint8Array(10)
  const view = new DataView(bytes.buffer)
  view.setUint8(0, opcode)
  view.setUint32(2, lba)
  view.setUint16(7, blocks)
  return bytes
}
