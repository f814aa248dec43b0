/**
 * The client's shell: one connection to an NBD server, with as many requests under way as its callers make. It knows
 * nothing of reconnecting: when the connection ends, every request fails with `connectionLost`, and `onLost` says why.
 */
import { OperationError } from '../base/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Connect, TcpConnection, TcpHandler } from '../ports/tcp.ts'
import { WireError } from '../wire/reader.ts'
import { handshakeMsMax, silenceMsMax } from './limits.ts'
import { messageBytes, type NbdTerms, negotiate, negotiationStart, printable } from './negotiation.ts'
import { command, commandFlag, extentState, nbdError } from './registry.ts'
import { type ExtentStatus, type Failure, Transactions } from './transactions.ts'
import { encodeRequest } from './transmission.ts'

export type NbdClientParts = {
  readonly connect: Connect
  readonly clock: Clock
  readonly exportName: string
  /** For error messages: where the server is. */
  readonly label: string
}

/** Ranges are inside the export, multiples of `minimumBlockBytes`, and no longer than the terms say. */
export interface NbdConnection {
  readonly terms: NbdTerms
  /** @throws {OperationError} connectionLost, ioError */
  read(offset: number, target: Uint8Array): Promise<void>
  /** @throws {OperationError} connectionLost, ioError, noSpace, readOnly */
  write(offset: number, source: Uint8Array): Promise<void>
  /** All writes that had ended are on stable storage, as the server says. */
  flush(): Promise<void>
  writeZeroes(offset: number, bytes: number, mayUnmap: boolean): Promise<void>
  /** Only where the terms have `allocationContext`. */
  extent(offset: number, bytes: number): Promise<{ readonly allocated: boolean; readonly bytes: number }>
  /** Says goodbye. What is under way fails. */
  close(): Promise<void>
}

/** @throws {OperationError} connectionRefused, unreachable, serverUnfit */
export async function connectNbd(
  parts: NbdClientParts,
  onLost: (reason: string) => void = () => undefined,
): Promise<NbdConnection> {
  const client = new Client(parts, onLost)
  const opened = await parts.connect((connection) => client.open(connection))
  try {
    await client.agreed
  } catch (error) {
    opened.destroy()
    throw error
  }
  return client
}

const nothing = new Uint8Array(0)

class Client implements NbdConnection, TcpHandler {
  readonly borrowsChunks = true
  readonly agreed: Promise<void>
  readonly #parts: NbdClientParts
  readonly #onLost: (reason: string) => void
  #connection: TcpConnection | undefined
  #negotiation = negotiationStart
  #buffered: Uint8Array = nothing
  #terms: NbdTerms | undefined
  #transactions: Transactions | undefined
  #cookie = 0
  #lost: OperationError | undefined
  #closing = false
  #watch: Timer | undefined
  #heardMs = 0
  #settle: { readonly done: () => void; readonly failed: (error: unknown) => void } | undefined

  constructor(parts: NbdClientParts, onLost: (reason: string) => void) {
    this.#parts = parts
    this.#onLost = onLost
    this.agreed = new Promise((done, failed) => {
      this.#settle = { done, failed }
    })
    this.agreed.catch(() => undefined) // whoever connects hears of it; a connect that fails has nobody else
  }

  get terms(): NbdTerms {
    if (this.#terms === undefined) throw this.#lostError('nothing is agreed on yet')
    return this.#terms
  }

  open(connection: TcpConnection): TcpHandler {
    this.#connection = connection
    this.#watch = this.#parts.clock.after(handshakeMsMax, () => this.#lose('it did not answer in time'))
    return this
  }

  receiveInto(): Uint8Array | undefined {
    return this.#lost === undefined ? this.#transactions?.receiveInto() : undefined
  }

  onData(chunk: Uint8Array): void {
    if (this.#lost !== undefined) return
    this.#heardMs = this.#parts.clock.nowMs()
    try {
      if (this.#transactions !== undefined) this.#transactions.receive(chunk)
      else this.#shakeHands(chunk)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      this.#lose(`it broke the protocol (${error.message})`)
    }
  }

  onClose(reason: string): void {
    this.#lose(reason === 'closed' ? 'it ended the connection' : `the connection broke (${reason})`)
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#request(command.read, 0, { offset, bytes: target.byteLength, target }) as Promise<void>
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#request(command.write, 0, { offset, bytes: source.byteLength, source }) as Promise<void>
  }

  flush(): Promise<void> {
    return this.#request(command.flush, 0, { offset: 0, bytes: 0 }) as Promise<void>
  }

  writeZeroes(offset: number, bytes: number, mayUnmap: boolean): Promise<void> {
    return this.#request(command.writeZeroes, mayUnmap ? 0 : commandFlag.noHole, { offset, bytes }) as Promise<void>
  }

  async extent(offset: number, bytes: number): Promise<{ allocated: boolean; bytes: number }> {
    const status = await this.#request(command.blockStatus, commandFlag.reqOne, { offset, bytes })
    const isHole = extentState.hole | extentState.zero
    return { allocated: ((status?.state ?? 0) & isHole) !== isHole, bytes: status?.bytes ?? bytes }
  }

  async close(): Promise<void> {
    if (this.#lost !== undefined) return
    this.#closing = true
    this.#send(command.disconnect, 0, 0, 0)
    this.#connection?.end()
    this.#lose('it was closed here')
  }

  #shakeHands(chunk: Uint8Array): void {
    this.#buffered = concat(this.#buffered, chunk)
    for (;;) {
      const bytes = messageBytes(this.#negotiation, this.#buffered)
      if (this.#buffered.byteLength < bytes) return
      const step = negotiate(this.#parts.exportName, this.#negotiation, this.#buffered.subarray(0, bytes))
      this.#buffered = this.#buffered.slice(bytes)
      this.#negotiation = step.state
      for (const message of step.send) this.#connection?.write(message)
      if (step.state.kind === 'failed') {
        this.#lose(step.state.reason)
        return
      }
      if (step.state.kind !== 'ready') continue
      this.#terms = step.state.terms
      this.#transactions = new Transactions(step.state.terms)
      this.#watch?.cancel()
      this.#watch = undefined
      this.#settle?.done()
      // Nothing was asked yet, so anything that came with it is a mistake of the server's.
      if (this.#buffered.byteLength > 0) this.#transactions.receive(this.#buffered)
      return
    }
  }

  #request(
    type: number,
    flags: number,
    what: {
      readonly offset: number
      readonly bytes: number
      readonly target?: Uint8Array
      readonly source?: Uint8Array
    },
  ): Promise<ExtentStatus | undefined> {
    const transactions = this.#transactions
    if (this.#lost !== undefined) return Promise.reject(this.#lost)
    if (transactions === undefined) return Promise.reject(this.#lostError('nothing is agreed on yet'))
    const { offset, bytes } = what
    return new Promise((resolve, reject) => {
      const cookie = this.#send(type, flags, offset, bytes, what.source)
      transactions.begin({
        cookie,
        type,
        offset,
        bytes,
        target: what.target,
        done: resolve,
        failed: (failure) => reject(this.#refused(failure)),
      })
      if (transactions.count === 1) this.#heardMs = this.#parts.clock.nowMs()
      this.#listenFor()
    })
  }

  #send(type: number, flags: number, offset: number, bytes: number, source?: Uint8Array): number {
    const cookie = ++this.#cookie
    this.#connection?.write(encodeRequest({ flags, type, cookie, offset, bytes }))
    if (source !== undefined) this.#connection?.write(source)
    return cookie
  }

  /** Looks now and then whether a server that owes an answer still says anything. */
  #listenFor(): void {
    this.#watch ??= this.#parts.clock.after(silenceMsMax / 2, () => {
      this.#watch = undefined
      if (this.#lost !== undefined || this.#transactions === undefined || this.#transactions.count === 0) return
      if (this.#parts.clock.nowMs() - this.#heardMs < silenceMsMax) this.#listenFor()
      else this.#lose('it does not answer any more')
    })
  }

  #refused({ error, text }: Failure): OperationError {
    if (this.#lost !== undefined) return this.#lost
    const { label } = this.#parts
    const said = text === '' ? '' : `: ${printable(text)}`
    switch (error) {
      case nbdError.shutdown:
        // "If the client receives an NBD_ESHUTDOWN error it MUST initiate a soft disconnect."
        this.#lose('it is shutting down')
        return this.#lostError('it is shutting down')
      case nbdError.noSpace: {
        const hint = 'Free space where the server keeps it; what was written before is safe.'
        return new OperationError('noSpace', `${label}: its disk is full${said}`, hint)
      }
      case nbdError.permission: {
        const hint = 'Let the server export it for writing, or serve it read-only.'
        return new OperationError('readOnly', `${label} may not be written${said}`, hint)
      }
      default: {
        const name = Object.entries(nbdError).find(([, number]) => number === error)?.[0] ?? 'error'
        const hint = "Look at the server's log, and at the disk that it keeps."
        return new OperationError('ioError', `${label} failed: ${name} (${error})${said}`, hint)
      }
    }
  }

  #lose(reason: string): void {
    if (this.#lost !== undefined) return
    this.#lost = this.#lostError(reason)
    this.#watch?.cancel()
    if (!this.#closing) this.#connection?.destroy()
    if (this.#transactions === undefined) {
      const hint =
        'Look whether the server runs and exports that name: nbdinfo, or qemu-img info with the same address.'
      const { label } = this.#parts
      this.#settle?.failed(new OperationError('serverUnfit', `cannot use ${label}: ${reason}`, hint))
      return
    }
    for (const transaction of this.#transactions.takeAll()) transaction.failed({ error: nbdError.shutdown, text: '' })
    if (!this.#closing) this.#onLost(reason)
  }

  #lostError(reason: string): OperationError {
    const hint = 'Look whether the server still runs, and the network between.'
    return new OperationError('connectionLost', `lost ${this.#parts.label}: ${reason}`, hint)
  }
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.byteLength + b.byteLength)
  both.set(a)
  both.set(b, a.byteLength)
  return both
}
