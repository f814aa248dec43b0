/** What the rooms saw, in the words of the journal. */
import { describeClient } from '../boot/client.ts'
import type { ClientFacts } from '../dhcp/client-facts.ts'
import type { DhcpEvent } from '../dhcp/policy.ts'
import type { HttpEvent } from '../http/policy.ts'
import type { IscsiEvent, SessionIdentity } from '../iscsi/policy.ts'
import { type Happening, type Stage, stageOfIsid } from '../journal/events.ts'
import { foreign } from '../journal/text.ts'
import type { TftpEvent } from '../tftp/policy.ts'
import type { Whose } from './event-stream.ts'

export type Said = { readonly whose: Whose; readonly happening: Happening }

/** Undefined for what is nobody's boot: a phone's lease. `planOf` says why a machine is told what it is told. */
export function fromDhcp(event: DhcpEvent, planOf: (client: ClientFacts) => string): readonly Said[] {
  switch (event.kind) {
    case 'offered': {
      const stage = stageOf(event.client)
      if (stage === undefined) return []
      const whose = { mac: event.client.mac, address: event.address }
      const firmware = describeClient(event.client)
      const { uuid } = event.client
      return [
        { whose, happening: { kind: 'dhcpDiscover', stage, firmware, uuid, plan: planOf(event.client) } },
        { whose, happening: { kind: 'dhcpOffer', stage, offeredAddress: event.address, file: event.bootFile } },
      ]
    }
    case 'leased': {
      const stage = stageOf(event.client)
      if (stage === undefined) return []
      const whose = { mac: event.client.mac, address: event.address }
      return [{ whose, happening: { kind: 'dhcpAck', stage, leasedAddress: event.address, file: event.bootFile } }]
    }
    case 'bootServerAnswered': {
      const stage = stageOf(event.client)
      if (stage === undefined) return []
      const happening = { kind: 'dhcpAck', stage, leasedAddress: undefined, file: event.bootFile } as const
      return [{ whose: { mac: event.client.mac }, happening }]
    }
    case 'refused': {
      const happening = { kind: 'dhcpNak', requestedAddress: event.address, reason: event.reason } as const
      return [{ whose: { mac: event.mac }, happening }]
    }
    case 'declined':
      return [{ whose: { mac: event.mac }, happening: { kind: 'dhcpDeclined', declinedAddress: event.address } }]
    case 'released':
      return [{ whose: { mac: event.mac }, happening: { kind: 'dhcpReleased', releasedAddress: event.address } }]
    case 'poolExhausted':
      return [{ whose: { mac: event.mac }, happening: { kind: 'dhcpPoolExhausted' } }]
    case 'otherServerChosen':
      return [{ whose: { mac: event.mac }, happening: { kind: 'dhcpOtherServer', server: event.server } }]
    case 'malformed': {
      const happening = { kind: 'peerBroken', protocol: 'DHCP', detail: event.reason } as const
      return [{ whose: { address: event.from }, happening }]
    }
    case 'storeFailed': {
      const hint = 'Free space in the state directory; until then no new address is handed out.'
      return [{ whose: {}, happening: { kind: 'serviceFailed', service: 'DHCP leases', reason: event.reason, hint } }]
    }
    case 'routerSolicitationAnswered':
      return []
  }
}

export function fromTftp(event: TftpEvent): Said {
  const whose = { address: event.from.address }
  switch (event.kind) {
    case 'transferStarted': {
      const { name: file, fileBytes, blockBytes, windowBlocks } = event
      return { whose, happening: { kind: 'tftpStarted', file, fileBytes, blockBytes, windowBlocks } }
    }
    case 'transferEnded': {
      const { name: file, outcome, ackedBytes, durationMs } = event
      if (outcome === 'probed') return { whose, happening: { kind: 'tftpProbed', file } }
      if (outcome === 'complete' || outcome === 'unconfirmed') {
        return { whose, happening: { kind: 'tftpDone', file, fileBytes: ackedBytes, durationMs } }
      }
      const reason = event.detail === undefined ? outcome : `${outcome}: ${event.detail}`
      return { whose, happening: { kind: 'tftpAborted', file, ackedBytes, reason } }
    }
    case 'notFound':
      return { whose, happening: { kind: 'tftpNotFound', file: event.name } }
    case 'refused':
      return { whose, happening: { kind: 'tftpRefused', file: event.name, reason: event.reason } }
    case 'failed': {
      const hint = 'Check that the file can be read; the machine asks again by itself.'
      return { whose, happening: { kind: 'failed', step: `TFTP ${event.name}`, reason: event.detail, hint } }
    }
    case 'malformed':
      return { whose, happening: { kind: 'peerBroken', protocol: 'TFTP', detail: event.detail } }
  }
}

/**
 * Scripts and reports have events of their own, with more in them. A path that could not be looked up comes as it was sent: its
 * query is no part of an event, for there are secrets in some, and it may be as long as a request.
 */
export function fromHttp(event: HttpEvent): Said | undefined {
  const whose = { address: event.from.address }
  switch (event.kind) {
    case 'answered': {
      const { status, sentBytes, bodyBytes, durationMs, secure } = event
      const path = pathOf(event)
      if (status === 404) return { whose, happening: { kind: 'httpNotFound', path } }
      // The question for the key, before it is shown: the answer follows.
      if (status === 401 && path.startsWith('/linux/')) return undefined
      if (path.startsWith('/boot/') || path.startsWith('/report/')) return undefined
      if (sentBytes < bodyBytes) return { whose, happening: { kind: 'httpAborted', path, sentBytes, bodyBytes } }
      return { whose, happening: { kind: 'httpServed', path, status, sentBytes, durationMs, encrypted: secure } }
    }
    case 'refused':
      return { whose, happening: { kind: 'peerBroken', protocol: 'HTTP', detail: `${event.reason}: ${event.detail}` } }
    case 'dropped':
      return { whose, happening: { kind: 'peerBroken', protocol: 'HTTP', detail: event.reason } }
    case 'handlerFailed':
    case 'fileFailed': {
      const hint = 'Look at the log above this line; the machine tries again by itself.'
      return {
        whose,
        happening: { kind: 'failed', step: `HTTP ${pathOf(event)}`, reason: foreign(event.detail), hint },
      }
    }
  }
}

function pathOf({ path }: { readonly path: string }): string {
  return foreign(path.replace(/[?#].*$/s, ''))
}

/** `bootOf` names the boot that a user's credentials are of. */
export function fromIscsi(
  event: IscsiEvent,
  bootOf: (session: SessionIdentity) => string | undefined,
): readonly Said[] {
  switch (event.kind) {
    case 'sessionOpened': {
      const { session, authentication } = event
      const { sessionId, initiatorName, targetName, isid } = session
      const chap = authentication.kind === 'chap' ? authentication : undefined
      const proved = chap === undefined ? 'none' : chap.mutual ? 'mutual' : 'oneWay'
      return [
        {
          whose: whoseOf(session),
          happening: {
            kind: 'iscsiLogin',
            sessionId,
            stage: stageOfIsid(isid),
            initiatorName,
            targetName,
            isid,
            bootId: bootOf(session),
            authentication: proved,
            algorithm: chap?.algorithm,
            ...(chap?.downgraded === true ? { downgraded: true } : {}),
            reinstated: false,
          },
        },
      ]
    }
    case 'sessionClosed': {
      const { session, end, readBytes, writtenBytes } = event
      const { sessionId } = session
      const happening = { kind: 'sessionClosed', sessionId, reason: end, readBytes, writtenBytes } as const
      return [{ whose: whoseOf(session), happening }]
    }
    case 'loginFailed': {
      const { initiatorName, targetName, reason, detail } = event
      const happening = { kind: 'iscsiLoginFailed', initiatorName, targetName, reason, detail } as const
      return [{ whose: { address: event.remote.address }, happening }]
    }
    case 'rejected': {
      const happening = { kind: 'peerBroken', protocol: 'iSCSI', detail: `${event.reason}: ${event.detail}` } as const
      return [{ whose: whoseOf(event.session), happening }]
    }
    case 'addressSlowed': {
      const { address, failureCount, untilMs } = event
      return [{ whose: { address }, happening: { kind: 'addressSlowed', failureCount, untilMs } }]
    }
    case 'connectionRefused': {
      const happening = { kind: 'peerBroken', protocol: 'iSCSI', detail: event.reason } as const
      return [{ whose: { address: event.remote.address }, happening }]
    }
    case 'sessionReinstated':
      return []
  }
}

function whoseOf(session: SessionIdentity): Whose {
  return { mac: session.label, address: session.remote.address }
}

function stageOf(client: ClientFacts): Stage | undefined {
  switch (client.program.kind) {
    case 'pxe':
    case 'uefiHttp':
    case 'uboot':
      return 'firmware'
    case 'ipxe':
      return 'ipxe'
    case 'linuxIpconfig':
      return 'system'
    case 'other':
      return undefined
  }
}
