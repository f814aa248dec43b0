/**
 * Answers the router solicitations of machines that were just seen booting with iPXE, and nobody else's: on a link that is
 * not ours, an advertisement that nobody waits for is noise.
 */
import type { Mac } from '../base/address.ts'
import { putLast } from '../base/bounded-map.ts'
import type { Clock } from '../ports/clock.ts'
import type { Icmpv6Network, Icmpv6Socket } from '../ports/icmpv6.ts'
import { WireError } from '../wire/reader.ts'
import { solicitorSeconds, solicitorsMax } from './limits.ts'
import type { DhcpEvent, DhcpEvents } from './policy.ts'
import {
  allNodes,
  allRouters,
  readRouterSolicitation,
  routerSolicitationType,
  writeEmptyRouterAdvertisement,
} from './router-advertisement.ts'

export type SolicitationResponderTerms = {
  readonly interfaceName: string
  /** The interface's own, 6 bytes. */
  readonly linkAddress: Uint8Array
}

export interface SolicitationResponder {
  /** Hears the DHCP server's events, passed on to it: they tell which machine runs iPXE. */
  hear(event: DhcpEvent): void
  close(): void
}

/** @throws {OperationError} portForbidden, interfaceUnknown, addressUnknown: the boot works without, only slower */
export async function startSolicitationResponder(
  terms: SolicitationResponderTerms,
  ports: { readonly icmpv6: Icmpv6Network; readonly clock: Clock },
  events: DhcpEvents,
): Promise<SolicitationResponder> {
  const { clock, icmpv6 } = ports
  const advertisement = writeEmptyRouterAdvertisement(terms.linkAddress)
  /** When each was last heard, the longest silent first. */
  const lastHeardMs = new Map<Mac, number>()
  let socket: Icmpv6Socket | undefined

  const receive = (bytes: Uint8Array, fromAddress: string): void => {
    const mac = macOfSolicitation(bytes)
    const heardMs = mac === undefined ? undefined : lastHeardMs.get(mac)
    if (heardMs === undefined || clock.nowMs() - heardMs > solicitorSeconds * 1000) return
    // RFC 4861 §6.2.6: to all nodes, or to the one that asked when it has an address already.
    const to = fromAddress === '::' ? allNodes : fromAddress
    socket?.send(advertisement, to)
    events.emit({ kind: 'routerSolicitationAnswered', linkLocalAddress: fromAddress })
  }

  const hear = (event: DhcpEvent): void => {
    if (event.kind !== 'offered' && event.kind !== 'leased') return
    const { mac, program } = event.client
    // The kernel that iPXE started solicits too, and is answered by whoever routes there.
    if (program.kind === 'ipxe') putLast(lastHeardMs, mac, clock.nowMs(), solicitorsMax)
    else lastHeardMs.delete(mac)
  }

  socket = await icmpv6.open(
    terms.interfaceName,
    { types: [routerSolicitationType], joinedGroups: [allRouters] },
    receive,
  )
  const opened = socket
  return { hear, close: () => opened.close() }
}

/** Undefined also for what is no solicitation: anybody on the link may send anything. */
function macOfSolicitation(bytes: Uint8Array): Mac | undefined {
  try {
    return readRouterSolicitation(bytes).mac
  } catch (error) {
    if (error instanceof WireError) return undefined
    throw error
  }
}
