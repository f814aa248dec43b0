/**
 * Records a boot for the storm: `node bench/record-boot.ts IMAGE UNTIL [REMARK]`. A PC in QEMU boots from a fresh clone of IMAGE by
 * QEMU's own iSCSI initiator; every READ and WRITE that our target gets is taken down until its serial console says UNTIL.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../src/host/clock.ts'
import { systemHash } from '../src/host/hash.ts'
import { systemRandom } from '../src/host/random.ts'
import { systemTcp } from '../src/host/tcp.ts'
import { createIscsiTarget } from '../src/iscsi/server.ts'
import { createDeviceServer } from '../src/scsi/device-server.ts'
import type { DeviceServer, Task } from '../src/scsi/task.ts'
import { u16, u32, u64 } from '../src/wire/big-endian.ts'
import { encodeRecording, type RecordedRequest, recordedBlockBytes, recordingFile } from './boot-recording.ts'
import { openFreshClone } from './clone-device.ts'

const [image, until, ...remarks] = process.argv.slice(2)
if (image === undefined || until === undefined) throw new Error('usage: node bench/record-boot.ts IMAGE UNTIL [REMARK]')
const bootLimitMs = 590_000
const targetName = 'iqn.2026-01.slipway.bench:disk'
const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
const device = await openFreshClone(image, join(folder, 'clone.qcow2'))
const inner = createDeviceServer({
  targetName,
  disks: [{ device, serialNumber: 'BENCH1' }],
  report: (error) => console.error(error),
  pause: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
})

const requests: RecordedRequest[] = []
/** READ (10), READ (16), WRITE (10), WRITE (16): QEMU sends no others. */
function note({ cdb }: Task): void {
  const opcode = cdb[0] ?? 0
  if (![0x28, 0x88, 0x2a, 0x8a].includes(opcode)) return
  const isLong = opcode >= 0x80
  const block = isLong ? u64(cdb, 2) : u32(cdb, 2)
  const count = isLong ? u32(cdb, 10) : u16(cdb, 7)
  const write = opcode === 0x2a || opcode === 0x8a
  requests.push({ write, offset: block * recordedBlockBytes, bytes: count * recordedBlockBytes })
}
const deviceServer: DeviceServer = {
  dataOutBytesMax: inner.dataOutBytesMax,
  attach: (nexus) => inner.attach(nexus),
  detach: (nexus) => inner.detach(nexus),
  manage: (nexus, lun, request) => inner.manage(nexus, lun, request),
  execute: (task) => {
    note(task)
    inner.execute(task)
  },
}
const target = createIscsiTarget({
  network: systemTcp,
  clock: systemClock,
  random: systemRandom,
  hash: systemHash,
  directory: {
    resolve: () => ({ kind: 'accept', authentication: { kind: 'none' }, deviceServer }),
    discover: () => ({ kind: 'accept', authentication: { kind: 'none' } }),
    list: () => [],
  },
  events: () => undefined,
})
const { local } = await target.listen({ address: '127.0.0.1', port: 0 })
const disk = `iscsi://127.0.0.1:${local.port}/${targetName}/0`
const machine = spawn(
  'qemu-system-x86_64',
  [
    ...['-machine', 'q35,accel=tcg', '-cpu', 'qemu64', '-m', '1024', '-display', 'none', '-nic', 'none', '-no-reboot'],
    ...['-serial', 'stdio', '-drive', `file=${disk},format=raw,if=virtio,cache=none`],
  ],
  { stdio: ['ignore', 'pipe', 'inherit'] },
)
let said = ''
const ended = new Promise<string>((resolve) => {
  machine.stdout.on('data', (chunk: Buffer) => {
    said += chunk.toString('latin1')
    if (said.includes(until)) resolve('booted')
  })
  machine.once('exit', () => resolve('QEMU ended'))
  setTimeout(() => resolve('it took too long'), bootLimitMs)
})
const how = await ended
machine.kill('SIGKILL')
await target.close(100)
await device.close()
rmSync(folder, { recursive: true })
if (how !== 'booted') {
  console.error(`${how}; its console ends with:\n${said.slice(-2000)}`)
  process.exit(1)
}
writeFileSync(recordingFile, encodeRecording({ diskBytes: device.sizeBytes, requests }, remarks))
const sum = (write: boolean): string => {
  const some = requests.filter((request) => request.write === write)
  return `${some.length} of ${(some.reduce((bytes, request) => bytes + request.bytes, 0) / 1e6).toFixed(1)} MB`
}
console.log(`reads: ${sum(false)}; writes: ${sum(true)}`)
process.exit(0)
