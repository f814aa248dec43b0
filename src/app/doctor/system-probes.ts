import { OperationError } from '../../base/errors.ts'
import { openRawDevice } from '../../block/file.ts'
import { probeServers } from '../../dhcp/probe.ts'
import { systemClock } from '../../host/clock.ts'
import { kindOf, listFiles } from '../../host/directory.ts'
import { openFile } from '../../host/file.ts'
import { listInterfaces } from '../../host/interfaces.ts'
import { openJournalStore } from '../../host/journal-store.ts'
import { systemKeys } from '../../host/keys.ts'
import { systemRandom } from '../../host/random.ts'
import { directoryFacts, readFirewall } from '../../host/surroundings.ts'
import { systemTcp } from '../../host/tcp.ts'
import { createTrustFiles } from '../../host/trust-files.ts'
import { systemUdp } from '../../host/udp.ts'
import type { BootEvent } from '../../journal/events.ts'
import { readSiteAuthority } from '../../trust/site.ts'
import { type CertificateTerms, loadServerCertificates } from '../server-certificates.ts'
import type { CertificateFacts, DoctorProbes, LoaderFileFacts, PortPlace } from './probes.ts'

/** Larger files than this among the loaders are discs and archives. */
const loaderBytesMax = 64 * 1024 * 1024
/** dnsmasq asks the network for 3 seconds whether an address is free before it offers it. */
const dhcpWaitMs = 4_000

/** The real world. `openImage` is replaced where more than raw images can be opened. */
export function systemProbes(replaced: Partial<Pick<DoctorProbes, 'openImage'>> = {}): DoctorProbes {
  return {
    interfaces: listInterfaces,
    tryPort,
    dhcpServers: ({ interfaceName, mac }) => {
      const linkAddress = Uint8Array.from(mac.split(':'), (pair) => Number.parseInt(pair, 16))
      const terms = { interfaceName, linkAddress, waitMs: dhcpWaitMs }
      return probeServers(terms, { udp: systemUdp, clock: systemClock, random: systemRandom })
    },
    loaderFiles,
    openImage: async (path) => openRawDevice(await openFile(path, 'readOnly'), { readOnly: true }),
    directory: directoryFacts,
    firewall: readFirewall,
    certificate,
    recentEvents,
    wallMs: () => systemClock.wallMs(),
    ...replaced,
  }
}

/** Our own authority's are made by `up`; what can be wrong with them is the authority. */
async function certificate(terms: CertificateTerms): Promise<CertificateFacts | undefined> {
  const nowMs = systemClock.wallMs()
  if (terms.own === undefined) {
    const authority = await readSiteAuthority(nowMs, createTrustFiles(terms.trustDirectory), systemKeys)
    if (authority === undefined) return undefined
    const { subject, notAfterMs } = authority.certificate
    return { subject, notAfterMs, host: terms.address }
  }
  const { leaves, host } = await loadServerCertificates(terms, nowMs)
  const [leaf] = leaves
  return leaf && { subject: leaf.subject, notAfterMs: leaf.notAfterMs, host }
}

const recentEventsMax = 5_000

async function recentEvents(stateDirectory: string): Promise<readonly BootEvent[]> {
  const path = `${stateDirectory}/journal.db`
  if ((await kindOf(path)) === undefined) return []
  const store = openJournalStore(path)
  try {
    return store.events({ afterId: store.lastEventId() - recentEventsMax, countMax: recentEventsMax })
  } finally {
    store.close()
  }
}

async function tryPort(place: PortPlace): Promise<void> {
  const { protocol, address, port, interfaceName, shared } = place
  if (protocol === 'tcp') {
    const ignore = { onData: () => {}, onClose: () => {} }
    const listener = await systemTcp.listen({ address, port }, (connection) => {
      connection.destroy()
      return ignore
    })
    await listener.close()
    return
  }
  const binding = { address, port, reuseAddress: shared, ...(interfaceName !== undefined && { interfaceName }) }
  const socket = await systemUdp.bind(binding, () => {})
  socket.close()
}

async function loaderFiles(directory: string): Promise<readonly LoaderFileFacts[] | undefined> {
  let listed: Awaited<ReturnType<typeof listFiles>>
  try {
    listed = await listFiles(directory)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    if (code !== 'EACCES') throw error
    const hint = 'Give the user that runs Slipway leave to read it, or name another folder: --loaders DIR.'
    throw new OperationError('fileForbidden', `${directory} may not be read`, hint, { cause: error })
  }
  return listed
    .filter(({ sizeBytes }) => sizeBytes <= loaderBytesMax)
    .map(({ name, path, sizeBytes }) => ({
      name,
      bytes: async () => {
        const file = await openFile(path, 'readOnly')
        try {
          const bytes = new Uint8Array(sizeBytes)
          await file.read(0, bytes)
          return bytes
        } finally {
          await file.close()
        }
      },
    }))
}
