/**
 * Slipway's DHCP server by itself, leases kept in a directory: what bench/dhcp.bench.ts measures and test/interop/dhcp.test.ts
 * meets strangers with. Arguments: INTERFACE ADDRESS FROM TO DIRECTORY.
 */
import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { openLeaseLog } from '../src/dhcp/lease-log.ts'
import { startDhcpServer } from '../src/dhcp/server.ts'
import { systemClock } from '../src/host/clock.ts'
import { openFile } from '../src/host/file.ts'
import { createNeighbours, systemUdp } from '../src/host/udp.ts'
import type { RandomAccessFile } from '../src/ports/file.ts'

const [interfaceName = '', serverAddress = '', from = '', to = '', directory = ''] = process.argv.slice(2)

function open(name: string): Promise<RandomAccessFile> {
  const path = join(directory, name)
  closeSync(openSync(path, 'a'))
  return openFile(path, 'readWrite')
}

await startDhcpServer(
  {
    interfaceName,
    mode: { kind: 'server', pool: { serverAddress, prefixBits: 16, from, to, leaseSeconds: 3600 } },
  },
  {
    udp: systemUdp,
    neighbours: createNeighbours(),
    clock: systemClock,
    log: { debug: () => {}, info: () => {}, warn: console.error, error: console.error },
  },
  {
    advisor: { answer: () => ({ kind: 'boot', bootFile: 'undionly.kpxe' }) },
    leases: openLeaseLog([await open('leases-a'), await open('leases-b')]),
    events: { emit: () => {} },
  },
)
process.once('SIGTERM', () => process.exit(0))
console.log('ready')
