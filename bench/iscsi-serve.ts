/**
 * Our iSCSI target by itself, for benches and for trying things: `node bench/iscsi-serve.ts ADDRESS PORT FILE|memory:SIZE|clone:GOLDEN:CLONE`.
 * One target, no CHAP, every initiator is welcome.
 */
import { Secret } from '../src/base/secret.ts'
import { parseBytes } from '../src/base/units.ts'
import { openRawDevice } from '../src/block/file.ts'
import { createMemoryDevice } from '../src/block/memory.ts'
import { systemClock } from '../src/host/clock.ts'
import { openFile } from '../src/host/file.ts'
import { systemHash } from '../src/host/hash.ts'
import { systemRandom } from '../src/host/random.ts'
import { systemTcp } from '../src/host/tcp.ts'
import type { Authentication } from '../src/iscsi/policy.ts'
import { createIscsiTarget } from '../src/iscsi/server.ts'
import { createDeviceServer } from '../src/scsi/device-server.ts'
import { openFreshClone } from './clone-device.ts'

const [address = '127.0.0.1', port = '3260', what = 'memory:64M', user, secret] = process.argv.slice(2)
const targetName = 'iqn.2026-01.slipway.bench:disk'
const [kind, ...rest] = what.split(':')
const device =
  kind === 'memory'
    ? createMemoryDevice(parseBytes(rest[0] ?? '') ?? 0)
    : kind === 'clone'
      ? await openFreshClone(rest[0] ?? '', rest[1] ?? '')
      : await openRawDevice(await openFile(what, 'readWrite'))
const deviceServer = createDeviceServer({
  targetName,
  disks: [{ device, serialNumber: 'BENCH1' }],
  report: (error) => console.error(error),
  pause: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
})
const authentication: Authentication =
  user === undefined ? { kind: 'none' } : { kind: 'chap', initiator: [{ user, secret: new Secret(secret ?? '') }] }
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
    discover: () => ({ kind: 'accept', authentication: { kind: 'none' } }),
    list: () => [{ targetName, portals: [] }],
  },
  events: (event) => {
    if (process.env['SLIPWAY_EVENTS'] !== undefined) console.error(JSON.stringify(event))
  },
})
await target.listen({ address, port: Number(port) })
process.once('SIGTERM', () => {
  target.close(100).then(
    () => process.exit(0),
    () => process.exit(1),
  )
})
console.log('ready')
