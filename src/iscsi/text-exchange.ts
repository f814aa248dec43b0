/** Text requests in full-feature phase: SendTargets, what may still be negotiated, answers over several PDUs. §11.10, §11.11 */
import { WireError } from '../wire/reader.ts'
import { type RejectReason, rejectReason } from './codes.ts'
import { noTag } from './header.ts'
import { headerAgain, type TextRequest } from './initiator-pdu.ts'
import { negotiationTextBytesMax, sendTargetsBytesMax } from './limits.ts'
import { renegotiate } from './negotiation.ts'
import { ask, type LoginAttempt, type TargetListing } from './policy.ts'
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

/** A sequence of requests that goes on: the next one carries our tag. §11.10.4. */
type Open = {
  readonly initiatorTaskTag: number
  readonly targetTransferTag: number
  /** What came with the C bit set, until a request comes without. */
  readonly soFar: Uint8Array
  /** What is left of an answer that did not fit one PDU; it is fetched with empty requests. */
  readonly rest: Uint8Array
}

export class TextExchange {
  readonly #host: TextHost
  #open: Open | undefined

  constructor(host: TextHost) {
    this.#host = host
  }

  answer(pdu: TextRequest, bytes: Uint8Array): void {
    const host = this.#host
    const refused = (): Uint8Array => headerAgain(pdu, bytes.byteLength)
    // A request without our tag begins anew, whatever came before.
    const open = pdu.targetTransferTag === noTag ? undefined : this.#open
    this.#open = undefined
    if (pdu.targetTransferTag !== noTag) {
      const goesOn = open?.targetTransferTag === pdu.targetTransferTag && open.initiatorTaskTag === pdu.initiatorTaskTag
      if (!goesOn || (open.rest.byteLength > 0 && bytes.byteLength > 0)) {
        host.reject(rejectReason.invalidPduField, 'a text request that goes on from none', refused())
        return
      }
      if (open.rest.byteLength > 0) {
        this.#send(pdu, open.rest)
        return
      }
    }
    const soFar = open?.soFar ?? noData
    if (pdu.final && pdu.more) {
      host.reject(rejectReason.protocolError, 'F and C together', refused())
      return
    }
    const text = new Uint8Array(soFar.byteLength + bytes.byteLength)
    text.set(soFar)
    text.set(bytes, soFar.byteLength)
    if (text.byteLength > negotiationTextBytesMax) {
      host.breakOff(rejectReason.protocolError, 'more text than allowed', refused())
      return
    }
    if (pdu.more) {
      this.#goOn(pdu, noData, { soFar: text, rest: noData })
      return
    }
    let offers: readonly KeyValue[]
    try {
      offers = decodeText(text)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      host.reject(rejectReason.protocolError, error.message, refused())
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
    const listings = ask(() => host.listTargets())
    if (listings instanceof Promise) listings.then(finish, () => finish([]))
    else finish(listings)
  }

  #send(pdu: TextRequest, text: Uint8Array): void {
    const bytesMax = this.#host.output.parameters.peerSegmentBytesMax
    if (text.byteLength > bytesMax) {
      this.#goOn(pdu, text.subarray(0, bytesMax), { soFar: noData, rest: text.subarray(bytesMax) })
    } else if (pdu.final) {
      this.#respond(pdu, text, { final: true, more: false, tag: noTag })
    } else {
      // §11.11.1: F answers F only; whoever sends none has more to say.
      this.#goOn(pdu, text, { soFar: noData, rest: noData })
    }
  }

  #goOn(pdu: TextRequest, text: Uint8Array, what: Pick<Open, 'soFar' | 'rest'>): void {
    const tag = this.#host.output.newTransferTag()
    this.#open = { initiatorTaskTag: pdu.initiatorTaskTag, targetTransferTag: tag, ...what }
    this.#respond(pdu, text, { final: false, more: what.rest.byteLength > 0, tag })
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
