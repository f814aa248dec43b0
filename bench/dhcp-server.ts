/** What bench/dhcp.bench.ts measures: Slipway's DHCP server by itself, leases kept. INTERFACE ADDRESS FROM TO DIRECTORY. */
import { join } from 'node:path'
import { openLeaseLog } from '../src/dhcp/lease-log.ts'
import { startDhcpServer } from '../src/dhcp/server.ts'
import { systemClock } from '../src/host/clock.ts'
import { openFile } from '../src/host/file.ts'
import { createNeighbours, systemUdp } from '../src/host/udp.ts'

const [interfaceName = '', serverAddress = '', from = '', to = '', directory = ''] = process.argv.slice(2)
const open = (name: string) => openFile(join(directory, name), 'createOrTruncate')
const silent = { debug: () => {}, info: () => {}, warn: console.error, error: console.error }
await startDhcpServer(
  {
    interfaceName,
    mode: { kind: 'server', pool: { serverAddress, prefixBits: 16, from, to, leaseSeconds: 3600 } },
  },
  { udp: systemUdp, neighbours: createNeighbours(), clock: systemClock, log: silent },
  {
    advisor: { answer: () => ({ kind: 'boot', bootFile: 'undionly.kpxe' }) },
    leases: openLeaseLog([await open('leases-a'), await open('leases-b')]),
    events: { emit: () => {} },
  },
)
process.once('SIGTERM', () => process.exit(0))
console.log('ready')
