/** Our TFTP or HTTP server by itself, for benches: `node bench/serve.ts tftp|http ADDRESS PORT FOLDER`. Files are opened as asked for. */
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { systemClock } from '../src/host/clock.ts'
import { openFile } from '../src/host/file.ts'
import { systemTcp } from '../src/host/tcp.ts'
import { systemUdp } from '../src/host/udp.ts'
import type { HttpFile } from '../src/http/policy.ts'
import { serveHttp } from '../src/http/server.ts'
import { serveTftp } from '../src/tftp/server.ts'

const [protocol, address = '', port, folder = ''] = process.argv.slice(2)
const listen = { address, port: Number(port) }
const files = new Map<string, HttpFile>()
for (const name of readdirSync(folder)) {
  if (!statSync(join(folder, name)).isFile()) continue
  const file = await openFile(join(folder, name), 'readOnly')
  files.set(name, { sizeBytes: file.sizeBytes(), read: (offset, target) => file.read(offset, target) })
}

if (protocol === 'tftp') {
  const catalogue = { find: (name: string) => files.get(name) }
  await serveTftp({ network: systemUdp, clock: systemClock, listen, catalogue, onEvent: () => {} })
} else {
  await serveHttp({
    network: systemTcp,
    secure: false,
    clock: systemClock,
    listen,
    onEvent: () => {},
    handler: ({ path }) => {
      const file = files.get(path.slice(1))
      return file === undefined ? { status: 404 } : { status: 200, body: { kind: 'file', file } }
    },
  })
}
console.log('ready')
