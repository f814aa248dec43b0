/** A target on loopback, in this process, as strangers' clients meet it. */
import { execFile } from 'node:child_process'
import type { BlockDevice } from '../../src/block/device.ts'
import { systemClock } from '../../src/host/clock.ts'
import { systemHash } from '../../src/host/hash.ts'
import { systemRandom } from '../../src/host/random.ts'
import { systemTcp } from '../../src/host/tcp.ts'
import type { Authentication, IscsiEvent } from '../../src/iscsi/policy.ts'
import { createIscsiTarget } from '../../src/iscsi/server.ts'
import { createDeviceServer } from '../../src/scsi/device-server.ts'
import type { ReservationStore } from '../../src/scsi/reservations/store.ts'

export const targetName = 'iqn.2026-01.slipway.test:disk'

export type ServedOptions = {
  readonly device: BlockDevice
  readonly authentication?: Authentication
  readonly physicalBlockBytes?: number
  readonly reservationStore?: ReservationStore
}

export type Served = {
  readonly port: number
  readonly url: string
  readonly events: readonly IscsiEvent[]
  /** What the device server had to report: nothing, if all is well. */
  readonly faults: readonly unknown[]
  readonly close: () => Promise<void>
}

export async function serve(options: ServedOptions): Promise<Served> {
  const { device, authentication = { kind: 'none' }, physicalBlockBytes, reservationStore } = options
  const events: IscsiEvent[] = []
  const faults: unknown[] = []
  const deviceServer = createDeviceServer({
    targetName,
    portCount: 2,
    disks: [
      {
        device,
        serialNumber: 'TEST1',
        ...(physicalBlockBytes === undefined ? {} : { physicalBlockBytes }),
        ...(reservationStore === undefined ? {} : { reservationStore }),
      },
    ],
    report: (error) => faults.push(error),
    pause: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
  })
  const target = createIscsiTarget({
    network: systemTcp,
    clock: systemClock,
    random: systemRandom,
    hash: systemHash,
    directory: {
      resolve: (attempt) =>
        attempt.targetName === targetName
          ? { kind: 'accept', authentication, deviceServer }
          : { kind: 'refuse', reason: 'notFound' },
      discover: () => ({ kind: 'accept', authentication }),
      list: () => [{ targetName, portals: [] }],
    },
    events: (event) => events.push(event),
  })
  const { local } = await target.listen({ address: '127.0.0.1', port: 0 })
  return {
    port: local.port,
    url: `iscsi://127.0.0.1:${local.port}/${targetName}/0`,
    events,
    faults,
    close: async () => {
      await target.close(100)
      await device.close()
    },
  }
}

export type Ran = { readonly status: number; readonly text: string }

/** Runs a client beside the target; nothing of it outlives `withinSeconds`. */
export function run(
  program: string,
  args: readonly string[],
  options: { readonly withinSeconds?: number; readonly environment?: Readonly<Record<string, string>> } = {},
): Promise<Ran> {
  const { withinSeconds = 60, environment = {} } = options
  return new Promise((resolve) => {
    execFile(
      program,
      args,
      { timeout: withinSeconds * 1_000, maxBuffer: 64 * 1024 * 1024, env: { ...process.env, ...environment } },
      (error, stdout, stderr) => {
        const status = error === null ? 0 : typeof error.code === 'number' ? error.code : 1
        resolve({ status, text: stdout + stderr })
      },
    )
  })
}
