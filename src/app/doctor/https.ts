/** Whether HTTPS could be served, and with whom it did not come to an agreement lately. */
import type { OperationError } from '../../base/errors.ts'
import type { BootEvent } from '../../journal/events.ts'
import { foreign, isoTime } from '../../journal/text.ts'
import { dayMs, formatDay } from '../../trust/time.ts'
import { error, type Finding, ok, warning } from './finding.ts'
import type { CertificateFacts } from './probes.ts'

/** A renewal that has not come by then will not. */
const soonMs = 14 * dayMs

export function judgeCertificate({ subject, notAfterMs, host }: CertificateFacts, nowMs: number): Finding {
  const until = `${subject} is good until ${formatDay(notAfterMs)}`
  if (notAfterMs - nowMs > soonMs) return ok('https.certificate', `${until}; machines ask ${host}`)
  const next = 'Renew it: the file is read again when it changes.'
  return warning('https.certificate', until, 'When it has ended no machine takes it.', next)
}

export function certificateFailed(thrown: OperationError): Finding {
  const why = 'Until it is put right HTTPS is not served; everything else is.'
  return error('https.certificate', thrown.message, why, thrown.hint)
}

const failuresShownMax = 5

/** The last failure of each machine that has not agreed with us since. */
export function judgeHandshakes(events: readonly BootEvent[], nowMs: number): Finding[] {
  const last = new Map<string, { readonly event: BootEvent; readonly what: string; readonly hint: string }>()
  for (const event of events) {
    if (nowMs - event.atMs > dayMs) continue
    const who = event.mac ?? event.address ?? 'somebody'
    if (event.kind === 'tlsAgreed') last.delete(who)
    if (event.kind === 'failed' && event.step === 'HTTPS')
      last.set(who, { event, what: event.reason, hint: event.hint })
    if (event.kind !== 'tlsFailed') continue
    const offered = event.offered === undefined ? '' : ` (it offered ${foreign(event.offered)})`
    last.set(who, { event, what: `could not agree on TLS: ${foreign(event.reason)}${offered}`, hint: event.hint })
  }
  const why = 'Such a machine boots without what HTTPS protects, or not at all.'
  return [...last]
    .slice(-failuresShownMax)
    .map(([who, { event, what, hint }]) =>
      warning('https.failed', `${who}, ${isoTime(event.atMs).slice(0, 16).replace('T', ' ')}: ${what}`, why, hint),
    )
}
