/** Text requests in full-feature phase: SendTargets, what may still be negotiated, answers over several PDUs. §11.10, §11.11 */
import { WireError } from '../wire/reader.ts'
import { type RejectReason, rejectReason } from './codes.ts'
import { noTag } from './header.ts'
import { encodeInitiatorPdu, type TextRequest } from './initiator-pdu.ts'
import { negotiationTextBytesMax, sendTargetsBytesMax } from './limits.ts'
import { renegotiate } from './negotiation.ts'
import type { LoginAttempt, TargetListing } from './policy.ts'
import { formatPortal } from './portal.ts'
import { noData, type SessionOutput } from './session-output.ts'
import { decodeText, encodeText, type KeyValue, textValue } from './text.ts'

export interface TextHost {
  readonly output: SessionOutput
  readonly attempt: LoginAttempt
  readonly isOver: boolean
  listTargets(): readonly TargetListing[] | Promise<readonly TargetListing[]>
  reject(reason: RejectReason, detail: string, header: Uint8Array): void
  breakOff(reason: RejectReason, detail: string, header: Uint8Array): void
}

/** What is left of an answer that did not fit one PDU. */
type Rest = { readonly targetTransferTag: number; readonly text: Uint8Array }

export class TextExchange {
  readonly #host: TextHost
  /** Of requests with the C bit, until one comes without. */
  #soFar = noData
  #rest: Rest | undefined

  constructor(host: TextHost) {
    this.#host = host
  }

  answer(pdu: TextRequest, bytes: Uint8Array): void {
    const host = this.#host
    const rest = this.#rest
    if (pdu.targetTransferTag !== noTag) {
      // The rest of a long answer is fetched with empty requests that carry our tag. §11.10.4.
      if (rest === undefined || rest.targetTransferTag !== pdu.targetTransferTag || bytes.byteLength > 0) {
        host.reject(rejectReason.invalidPduField, 'a text answer that is not there', encodeInitiatorPdu(pdu))
        return
      }
      this.#send(pdu, rest.text)
      return
    }
    this.#rest = undefined
    const text = new Uint8Array(this.#soFar.byteLength + bytes.byteLength)
    text.set(this.#soFar)
    text.set(bytes, this.#soFar.byteLength)
    this.#soFar = noData
    if (text.byteLength > negotiationTextBytesMax) {
      host.breakOff(rejectReason.protocolError, 'more text than allowed', encodeInitiatorPdu(pdu))
      return
    }
    if (pdu.more) {
      this.#soFar = text
      this.#respond(pdu, noData, { final: false, more: false, tag: host.output.newTransferTag() })
      return
    }
    let offers: readonly KeyValue[]
    try {
      offers = decodeText(text)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      host.reject(rejectReason.protocolError, error.message, encodeInitiatorPdu(pdu))
      return
    }
    const negotiated = renegotiate(host.output.parameters, offers)
    host.output.parameters = negotiated.parameters
    const wanted = textValue(offers, 'SendTargets')
    if (wanted === undefined) this.#send(pdu, encodeText(negotiated.answers))
    else this.#sendTargets(pdu, wanted, negotiated.answers)
  }

  /** §4.3, appendix C. In a normal session only its own target is told. */
  #sendTargets(pdu: TextRequest, wanted: string, answers: readonly KeyValue[]): void {
    const host = this.#host
    const own = host.attempt.targetName
    if (own !== undefined && wanted !== '' && wanted.toLowerCase() !== own) {
      this.#send(pdu, encodeText([...answers, ['SendTargets', 'Reject']]))
      return
    }
    const name = own ?? (wanted === 'All' ? undefined : wanted.toLowerCase())
    const finish = (listings: readonly TargetListing[]): void => {
      if (host.isOver) return
      const chosen = listings.filter(({ targetName }) => name === undefined || targetName === name)
      const text = encodeText([...answers, ...chosen.flatMap((listing) => describe(listing, host.attempt))])
      // Cut between targets would be kinder, but this many means a catalogue that no initiator could use.
      this.#send(pdu, text.byteLength > sendTargetsBytesMax ? encodeText([['SendTargets', 'Reject']]) : text)
    }
    const listings = host.listTargets()
    if (listings instanceof Promise) listings.then(finish, () => finish([]))
    else finish(listings)
  }

  #send(pdu: TextRequest, text: Uint8Array): void {
    const { output } = this.#host
    const bytesMax = output.parameters.peerSegmentBytesMax
    if (text.byteLength <= bytesMax) {
      this.#rest = undefined
      this.#respond(pdu, text, { final: true, more: false, tag: noTag })
      return
    }
    const tag = output.newTransferTag()
    this.#rest = { targetTransferTag: tag, text: text.subarray(bytesMax) }
    this.#respond(pdu, text.subarray(0, bytesMax), { final: false, more: true, tag })
  }

  #respond(
    pdu: TextRequest,
    text: Uint8Array,
    how: { readonly final: boolean; readonly more: boolean; readonly tag: number },
  ): void {
    const { output } = this.#host
    output.send(
      {
        kind: 'textResponse',
        ...output.nextNumbers(),
        final: how.final,
        more: how.more,
        lun: pdu.lun,
        initiatorTaskTag: pdu.initiatorTaskTag,
        targetTransferTag: how.tag,
      },
      text,
    )
  }
}

function describe({ targetName, portals }: TargetListing, attempt: LoginAttempt): KeyValue[] {
  const addresses = portals.length === 0 ? [{ ...attempt.local, group: 1 }] : portals
  const told = addresses.map((portal): KeyValue => ['TargetAddress', formatPortal({ group: 1, ...portal })])
  return [['TargetName', targetName], ...told]
}
