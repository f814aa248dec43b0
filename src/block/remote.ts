/**
 * A disk that another program keeps, reached over a connection that may break: NBD. It outlives the connection.
 *
 * While the other side is away, whoever asks waits, and after `awayPatienceMs` is told that it failed; the connection is
 * tried again all the time, and what is asked when it is back works again.
 *
 * An acknowledged write is never lost by the other side's end (a server killed with what it had not written yet): every
 * write that was acknowledged since the last flush is kept here, and written again, in its order, before anything else
 * is asked of a connection that is new. A flush that succeeded lets go of what it covered. For the order to mean
 * something, writes that overlap are never under way together. When what is kept reaches half its bound a flush is begun;
 * at the bound, writes wait for it.
 */
import { assert } from '../base/assert.ts'
import { messageOf, OperationError } from '../base/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import { assertRange, readOnlyError } from './bounds.ts'
import type { BlockDevice, Extent, Pending } from './device.ts'
import { Flusher } from './flusher.ts'
import {
  awayPatienceMs,
  reconnectAfterMsMax,
  reconnectAfterMsMin,
  replaysInFlight,
  unflushedBytesMax,
  unflushedWritesMax,
  zeroChunkBytes,
} from './limits.ts'
import { RangeLocks } from './range-locks.ts'

/**
 * One connection. Every method fails with `connectionLost` when it has ended, after `onLost` has been called; other codes are
 * the other side's answer.
 */
export interface RemoteSession {
  readonly terms: RemoteTerms
  read(offset: number, target: Uint8Array): Promise<void>
  write(offset: number, source: Uint8Array): Promise<void>
  /** Covers every write that ended on this connection before it was called. */
  flush(): Promise<void>
  writeZeroes(offset: number, bytes: number, mayUnmap: boolean): Promise<void>
  extent(offset: number, bytes: number): Promise<Extent>
  close(): Promise<void>
}

export type RemoteTerms = {
  readonly sizeBytes: number
  readonly readOnly: boolean
  readonly canFlush: boolean
  readonly canWriteZeroes: boolean
  readonly minimumBlockBytes: number
  /** Of one read or write, and of what carries no data. Multiples of `minimumBlockBytes`. */
  readonly transferBytesMax: number
  readonly effectBytesMax: number
  /** Undefined: `extent` is not to be called. */
  readonly allocationContext: number | undefined
}

export type RemoteState =
  | { readonly kind: 'away'; readonly reason: string }
  | { readonly kind: 'back'; readonly awayMs: number }

export type RemoteOptions = {
  /** A new connection; `onLost` is called when it has ended. @throws {OperationError} why it cannot be made */
  open(onLost: (reason: string) => void): Promise<RemoteSession>
  readonly clock: Clock
  /** For people: where it is. */
  readonly label: string
  readonly readOnly?: boolean
  readonly blockBytes?: 512 | 4096
  /** The size that it is known to have: with it, a disk that is away now is opened all the same. */
  readonly expectedSizeBytes?: number
  readonly patienceMs?: number
  onState?(state: RemoteState): void
}

/** @throws {OperationError} connectionRefused, unreachable, serverUnfit, remoteUnfit */
export async function openRemoteDevice(options: RemoteOptions): Promise<BlockDevice> {
  const { expectedSizeBytes, label } = options
  const readOnly = options.readOnly === true
  const end = new SessionEnd()
  let session: RemoteSession | undefined
  try {
    session = await options.open((reason) => end.came(reason))
  } catch (error) {
    if (expectedSizeBytes === undefined || !(error instanceof OperationError)) throw error
    const device = new RemoteDevice(options, { sizeBytes: expectedSizeBytes, blockBytes: options.blockBytes ?? 512 })
    device.reconnect(messageOf(error))
    return device
  }
  const sizeBytes = expectedSizeBytes ?? session.terms.sizeBytes
  const blockBytes = session.terms.minimumBlockBytes > 512 ? 4096 : (options.blockBytes ?? 512)
  const wrong = unfit(session.terms, { sizeBytes, blockBytes, readOnly })
  if (wrong !== undefined) {
    await session.close()
    throw new OperationError('remoteUnfit', `cannot use ${label}: ${wrong.what}`, wrong.hint)
  }
  const device = new RemoteDevice(options, { sizeBytes, blockBytes })
  device.use(session, end)
  return device
}

/** The end of a connection, which may come before anybody listens for it. */
class SessionEnd {
  #reason: string | undefined
  #listener: ((reason: string) => void) | undefined

  came(reason: string): void {
    this.#reason = reason
    this.#listener?.(reason)
  }

  listen(listener: (reason: string) => void): void {
    this.#listener = listener
    if (this.#reason !== undefined) listener(this.#reason)
  }
}

/** Why a connection cannot be this disk; undefined if it can. */
function unfit(
  terms: RemoteTerms,
  disk: { readonly sizeBytes: number; readonly blockBytes: number; readonly readOnly: boolean },
): { readonly what: string; readonly hint: string } | undefined {
  if (terms.sizeBytes !== disk.sizeBytes) {
    const hint = 'Let the server export the disk that it did, or add the one that it has now as another image.'
    return { what: `it is another disk now, of ${terms.sizeBytes} bytes and not ${disk.sizeBytes}`, hint }
  }
  if (terms.sizeBytes === 0) return { what: 'it is empty', hint: 'Export a disk that has a size.' }
  if (terms.minimumBlockBytes > disk.blockBytes) {
    const hint = 'Let the server take blocks of 512 or 4096 bytes (nbdkit: --filter=blocksize).'
    return { what: `its blocks are ${terms.minimumBlockBytes} bytes`, hint }
  }
  if (disk.readOnly) return undefined
  if (terms.readOnly) {
    return { what: 'it may not be written', hint: 'Let the server export it for writing, or serve it read-only.' }
  }
  if (!terms.canFlush) {
    const hint = 'Use a server that can (qemu-nbd, qemu-storage-daemon), or serve it read-only.'
    return { what: 'it cannot flush, so that nothing written to it is ever known to be safe', hint }
  }
  if (terms.sizeBytes % disk.blockBytes === 0) return undefined
  const hint = 'Make it larger, or serve it read-only.'
  return { what: `its size of ${terms.sizeBytes} bytes is no whole number of blocks of ${disk.blockBytes}`, hint }
}

/** A change that was acknowledged and may still be lost. Without `data` it made zeroes. */
type Change = {
  readonly offset: number
  readonly bytes: number
  readonly data: Uint8Array | undefined
  readonly mayUnmap: boolean
}

type Waiter = { readonly resolve: (session: RemoteSession) => void; readonly reject: (error: unknown) => void }

const zeroes = new Uint8Array(zeroChunkBytes)
const isLost = (error: unknown): boolean => error instanceof OperationError && error.code === 'connectionLost'

class RemoteDevice implements BlockDevice {
  readonly sizeBytes: number
  readonly blockBytes: number
  readonly readOnly: boolean
  /** What the server has, without the rest of its last block. */
  readonly #bytesThere: number
  readonly #options: RemoteOptions
  readonly #patienceMs: number
  #session: RemoteSession | undefined
  #thin = false
  #closed = false

  #awaySinceMs = 0
  #awayReason = ''
  #waiters: Waiter[] = []
  #patience: Timer | undefined

  /** In the order in which they were acknowledged. */
  #unflushed: Change[] = []
  #unflushedBytes = 0
  /** A flush failed over there: what it should have kept must be written again before another can be believed. */
  #replayOwed = false
  /** Changes wait for it: what is kept is being written again on a connection that is in use. */
  #gate: Promise<void> | undefined
  /** Changes under way, by block. */
  readonly #locks = new RangeLocks()
  readonly #flusher = new Flusher(() => this.#commit())

  constructor(options: RemoteOptions, shape: { readonly sizeBytes: number; readonly blockBytes: number }) {
    this.#options = options
    this.#patienceMs = options.patienceMs ?? awayPatienceMs
    this.#bytesThere = shape.sizeBytes
    this.blockBytes = shape.blockBytes
    this.sizeBytes = Math.ceil(shape.sizeBytes / shape.blockBytes) * shape.blockBytes
    this.readOnly = options.readOnly === true
  }

  get thin(): boolean {
    return this.#thin && !this.readOnly
  }

  read(offset: number, target: Uint8Array): Pending {
    assertRange(this, offset, target.byteLength)
    if (target.byteLength === 0) return undefined
    const there = Math.max(0, Math.min(target.byteLength, this.#bytesThere - offset))
    target.fill(0, there)
    return there === 0 ? undefined : this.#asked((session) => readAligned(session, offset, target.subarray(0, there)))
  }

  write(offset: number, source: Uint8Array): Pending {
    assertRange(this, offset, source.byteLength)
    this.#assertWritable()
    if (source.byteLength === 0) return undefined
    return this.#change({ offset, bytes: source.byteLength, data: source, mayUnmap: false })
  }

  writeZeroes(offset: number, bytes: number, mayUnmap: boolean): Pending {
    assertRange(this, offset, bytes)
    this.#assertWritable()
    return bytes === 0 ? undefined : this.#change({ offset, bytes, data: undefined, mayUnmap })
  }

  discard(offset: number, bytes: number): Pending {
    assertRange(this, offset, bytes)
    // NBD's own trim leaves open what is read afterwards; zeroes that may be holes do not.
    return this.thin ? this.writeZeroes(offset, bytes, true) : undefined
  }

  flush(): Pending {
    return this.readOnly ? undefined : this.#flusher.flush()
  }

  async extent(offset: number, bytes: number): Promise<Extent> {
    assertRange(this, offset, bytes)
    const there = Math.min(bytes, this.#bytesThere - offset)
    if (there <= 0) return { allocated: false, bytes }
    return this.#asked(async (session) => {
      const { allocationContext, effectBytesMax } = session.terms
      if (allocationContext === undefined) return { allocated: true, bytes }
      const found = await session.extent(offset, Math.min(there, effectBytesMax))
      const whole = found.bytes - (found.bytes % this.blockBytes)
      // A block of which a part takes space takes space.
      return whole === 0 ? { allocated: true, bytes: this.blockBytes } : { allocated: found.allocated, bytes: whole }
    })
  }

  async close(): Promise<void> {
    try {
      await this.flush()
    } finally {
      this.#closed = true
      this.#patience?.cancel()
      for (const { reject } of this.#waiters.splice(0)) reject(this.#away())
      const session = this.#session
      this.#session = undefined
      await session?.close()
    }
  }

  #assertWritable(): void {
    if (this.readOnly) throw readOnlyError(this.#options.label)
  }

  // Connections

  /** Takes a connection that fits. */
  use(session: RemoteSession, end: SessionEnd): void {
    this.#session = session
    this.#thin = session.terms.canWriteZeroes
    end.listen((reason) => {
      if (this.#session !== session) return
      this.#session = undefined
      this.reconnect(reason)
    })
  }

  /** It is away: tries to reach it until that works. */
  reconnect(reason: string): void {
    if (this.#closed) return
    const { clock, onState } = this.#options
    this.#awaySinceMs = clock.nowMs()
    this.#awayReason = reason
    onState?.({ kind: 'away', reason })
    this.#tryAgain(reconnectAfterMsMin)
  }

  #tryAgain(afterMs: number): void {
    const { clock, onState } = this.#options
    clock.after(afterMs, () => {
      if (this.#closed) return
      this.#connect().then(
        () => onState?.({ kind: 'back', awayMs: clock.nowMs() - this.#awaySinceMs }),
        (error: unknown) => {
          if (!(error instanceof OperationError)) throw error
          this.#awayReason = error.message
          this.#tryAgain(Math.min(afterMs * 2, reconnectAfterMsMax))
        },
      )
    })
  }

  async #connect(): Promise<void> {
    const { label } = this.#options
    const end = new SessionEnd()
    const session = await this.#options.open((reason) => end.came(reason))
    try {
      const wrong = unfit(session.terms, {
        sizeBytes: this.#bytesThere,
        blockBytes: this.blockBytes,
        readOnly: this.readOnly,
      })
      if (wrong !== undefined) throw new OperationError('remoteUnfit', `cannot use ${label}: ${wrong.what}`, wrong.hint)
      await this.#replay(session)
    } catch (error) {
      await session.close()
      throw error
    }
    if (this.#closed) {
      await session.close()
      return
    }
    this.#patience?.cancel()
    this.#patience = undefined
    const waiters = this.#waiters.splice(0)
    this.use(session, end)
    for (const { resolve } of waiters) resolve(session)
  }

  /** Everything that was acknowledged and never flushed, as it was. */
  async #replay(session: RemoteSession): Promise<void> {
    const locks = new RangeLocks()
    const underWay = new Set<Promise<void>>()
    for (const change of [...this.#unflushed]) {
      const [first, last] = this.#blocksOf(change)
      for (let other = locks.conflict(first, last); other !== undefined; other = locks.conflict(first, last))
        await other
      if (underWay.size >= replaysInFlight) await Promise.race(underWay)
      const replaying = locks.hold(first, last, send(session, change))
      underWay.add(replaying)
      replaying.then(
        () => underWay.delete(replaying),
        () => undefined, // stays, and fails the whole below
      )
    }
    await Promise.all(underWay)
    this.#replayOwed = false
  }

  /** The same on a connection that is in use: no change may be under way meanwhile, or an older one would undo it. */
  #replayAlone(session: RemoteSession): Promise<void> {
    const replaying = (async () => {
      for (let others = this.#locks.conflict(0, Number.MAX_SAFE_INTEGER); others !== undefined; ) {
        await others
        others = this.#locks.conflict(0, Number.MAX_SAFE_INTEGER)
      }
      await this.#replay(session)
    })()
    const opened = (): void => {
      this.#gate = undefined
    }
    this.#gate = replaying.then(opened, opened)
    return replaying
  }

  /** A connection now, or as soon as there is one. @throws {OperationError} ioError: it has been away for too long */
  #connected(): RemoteSession | Promise<RemoteSession> {
    if (this.#session !== undefined) return this.#session
    const { clock } = this.#options
    const leftMs = this.#awaySinceMs + this.#patienceMs - clock.nowMs()
    if (leftMs <= 0 || this.#closed) throw this.#away()
    this.#patience ??= clock.after(leftMs, () => {
      this.#patience = undefined
      for (const { reject } of this.#waiters.splice(0)) reject(this.#away())
    })
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }))
  }

  #away(): OperationError {
    const what = `${this.#options.label} is away: ${this.#awayReason}`
    return new OperationError('ioError', what, 'Start its server again; Slipway goes on by itself when it answers.')
  }

  /** Asks again on the next connection if one breaks, for as long as patience lasts. */
  async #asked<T>(ask: (session: RemoteSession) => Promise<T>): Promise<T> {
    let since: number | undefined
    for (;;) {
      const session = this.#session ?? (await this.#connected())
      try {
        return await ask(session)
      } catch (error) {
        if (!isLost(error)) throw error
        // A server may end each time it is asked this one thing.
        const nowMs = this.#options.clock.nowMs()
        since ??= nowMs
        if (nowMs - since > this.#patienceMs) throw this.#away()
        assert(this.#session !== session, 'a connection says that it has ended before what was under way on it fails')
      }
    }
  }

  // Changes

  #blocksOf({ offset, bytes }: Change): [number, number] {
    return [Math.floor(offset / this.blockBytes), Math.floor((offset + bytes - 1) / this.blockBytes)]
  }

  async #change(change: Change): Promise<void> {
    const [first, last] = this.#blocksOf(change)
    for (;;) {
      const others = this.#gate ?? this.#locks.conflict(first, last) ?? this.#roomFor(change)
      if (others === undefined) break
      await others
    }
    await this.#locks.hold(
      first,
      last,
      this.#asked((session) => send(session, change).then(() => this.#keep(change))),
    )
  }

  #keep(change: Change): void {
    // Lent until the write has ended, which is now.
    this.#unflushed.push({ ...change, data: change.data?.slice() })
    this.#unflushedBytes += change.data?.byteLength ?? 0
  }

  #roomFor(change: Change): Promise<void> | undefined {
    const bytes = this.#unflushedBytes + (change.data?.byteLength ?? 0)
    const count = this.#unflushed.length + this.#locks.heldCount
    if (bytes <= unflushedBytesMax / 2 && count < unflushedWritesMax / 2) return undefined
    const mustWait = this.#unflushed.length > 0 && (bytes > unflushedBytesMax || count >= unflushedWritesMax)
    return this.#flusher.relieve(mustWait)
  }

  #commit(): Pending {
    if (this.#unflushed.length === 0) return undefined
    return this.#commitKept()
  }

  async #commitKept(): Promise<void> {
    const count = this.#unflushed.length
    await this.#asked(async (session) => {
      try {
        if (this.#replayOwed) await this.#replayAlone(session)
        await session.flush()
      } catch (error) {
        // Its kernel may have dropped what it could not write, and would call the next flush a success.
        if (!isLost(error)) this.#replayOwed = true
        throw error
      }
    })
    // Nobody else takes away from the front: flushes run one at a time.
    const covered = this.#unflushed.splice(0, count)
    for (const { data } of covered) this.#unflushedBytes -= data?.byteLength ?? 0
    assert(this.#unflushedBytes >= 0, 'what is let go of was kept')
  }
}

async function send(session: RemoteSession, { offset, bytes, data, mayUnmap }: Change): Promise<void> {
  const { canWriteZeroes, effectBytesMax, transferBytesMax } = session.terms
  const largest = data === undefined && canWriteZeroes ? effectBytesMax : transferBytesMax
  const step = data === undefined && !canWriteZeroes ? Math.min(largest, zeroes.byteLength) : largest
  if (bytes <= step) return sendPart(session, offset, data ?? bytes, mayUnmap)
  for (let done = 0; done < bytes; done += step) {
    const part = Math.min(step, bytes - done)
    await sendPart(session, offset + done, data?.subarray(done, done + part) ?? part, mayUnmap)
  }
}

/** `what`: data, or how many zeroes. */
function sendPart(session: RemoteSession, offset: number, what: Uint8Array | number, mayUnmap: boolean): Promise<void> {
  if (typeof what !== 'number') return session.write(offset, what)
  if (session.terms.canWriteZeroes) return session.writeZeroes(offset, what, mayUnmap)
  return session.write(offset, zeroes.subarray(0, what))
}

async function readAligned(session: RemoteSession, offset: number, target: Uint8Array): Promise<void> {
  const { minimumBlockBytes, sizeBytes, transferBytesMax } = session.terms
  const start = offset - (offset % minimumBlockBytes)
  const end = Math.min(sizeBytes, Math.ceil((offset + target.byteLength) / minimumBlockBytes) * minimumBlockBytes)
  const isAligned = start === offset && end === offset + target.byteLength
  const bytes = isAligned ? target : new Uint8Array(end - start)
  if (bytes.byteLength <= transferBytesMax) await session.read(start, bytes)
  else {
    const parts: Promise<void>[] = []
    for (let at = 0; at < bytes.byteLength; at += transferBytesMax) {
      parts.push(session.read(start + at, bytes.subarray(at, at + transferBytesMax)))
    }
    // All have ended before any failure is told: the memory is lent.
    for (const outcome of await Promise.allSettled(parts)) if (outcome.status === 'rejected') throw outcome.reason
  }
  if (!isAligned) target.set(bytes.subarray(offset - start, offset - start + target.byteLength))
}
