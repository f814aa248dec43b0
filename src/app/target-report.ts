/** What `slipway target` prints for each event, for people. */
import { formatBytes } from '../base/units.ts'
import type { SessionIdentity } from '../iscsi/policy.ts'
import type { TargetEvent } from './target.ts'

export function describeTargetEvent(event: TargetEvent): string {
  switch (event.kind) {
    case 'ready': {
      const { targetName, endpoint, sizeBytes } = event
      const size = formatBytes(sizeBytes)
      return `Serving ${size} as iscsi://${endpoint.address}:${endpoint.port}/${targetName}/0. Ctrl-C stops it.`
    }
    case 'diskFailed':
      return `the disk of ${event.targetName} failed: ${event.reason}. ${event.hint}`
    case 'workerEnded': {
      const then = event.restartsInMs === undefined ? '' : ` Next try in ${event.restartsInMs} ms.`
      return `the worker of ${event.targetNames.join(', ')} ended: ${event.reason}. ${event.hint}${then}`
    }
    case 'workerRestarted':
      return `${event.targetNames.join(', ')} can be reached again`
    case 'diskAway':
      return `the disk of ${event.targetName} is away: ${event.reason}. It is tried again all the time; start its server.`
    case 'diskBack':
      return `the disk of ${event.targetName} is back, after ${(event.awayMs / 1000).toFixed(1)} s`
    case 'loginFailed':
      if (event.reason === 'redirected') return `${event.remote.address} sent on: ${event.detail}`
      return `${event.remote.address} login refused: ${event.reason} (${event.detail})`
    case 'sessionOpened': {
      const { authentication } = event
      if (authentication.kind === 'none') return `${who(event.session)} logged in, nothing proved`
      const proved = `${authentication.mutual ? 'mutual' : 'one-way'} CHAP with ${authentication.algorithm}`
      const weak = authentication.downgraded ? ' (it offered nothing better)' : ''
      return `${who(event.session)} logged in as ${authentication.user}, ${proved}${weak}`
    }
    case 'sessionClosed': {
      const moved = `${formatBytes(event.readBytes)} read, ${formatBytes(event.writtenBytes)} written`
      return `${who(event.session)} session ended (${event.end}): ${event.commandCount} commands, ${moved}`
    }
    case 'sessionReinstated':
      return `${who(event.session)} took the place of its session ${event.formerSessionId}`
    case 'rejected':
      return `${who(event.session)} broke the protocol: ${event.reason} (${event.detail})`
    case 'addressSlowed':
      return `${event.address} is slowed down after ${event.failureCount} wrong secrets`
    case 'connectionRefused':
      return `${event.remote.address} turned away: ${event.reason}`
  }
}

function who({ initiatorName, remote }: SessionIdentity): string {
  return `${initiatorName} (${remote.address})`
}
