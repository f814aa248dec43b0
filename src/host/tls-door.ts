/**
 * Connections on their way into TLS: what a client says first is looked at and put back, so that the handshake sees it too.
 * Whoever is here has proved nothing, so places are few, for each address and in all, and held for a limited time: a
 * newcomer takes the place of who has been here longest.
 */
import type { Socket } from 'node:net'
import type { Endpoint } from '../ports/udp.ts'
import { codeOf } from './file.ts'

export type Opening = { readonly remote: Endpoint; readonly bytes: Uint8Array; sentBytes(): number }

export type DoorTerms = {
  /** Whether what a client has sent so far is enough to tell what it offers. */
  readonly openingIsWhole: (bytes: Uint8Array) => boolean
  /** The handshake may begin. The place is held until `leave`. */
  readonly begin: (socket: Socket, opening: Opening) => void
  /** It never came to a handshake. */
  readonly failed: (opening: Opening, reason: string) => void
  readonly limits?: DoorLimits
}

export type DoorLimits = {
  /** From the connection to the end of the handshake, however busy it is. */
  readonly handshakeMsMax: number
  readonly placesMax: number
  readonly placesOfAddressMax: number
}

/** Machines behind one address (a router, a proxy) that are switched on together fit in. */
export const doorLimits: DoorLimits = { handshakeMsMax: 15_000, placesMax: 1_024, placesOfAddressMax: 128 }
/** Where a client proves itself: the iPXE of 2019 signs bit by bit, which takes an old or an emulated processor minutes. */
export const provingDoorLimits: DoorLimits = { ...doorLimits, handshakeMsMax: 180_000 }

type Place = { readonly address: string; readonly timer: NodeJS.Timeout; readonly dismiss: (reason: string) => void }

export class TlsDoor {
  readonly #terms: DoorTerms
  readonly #limits: DoorLimits
  /** The oldest first. */
  readonly #places = new Map<object, Place>()
  readonly #ofAddress = new Map<string, number>()

  constructor(terms: DoorTerms) {
    this.#terms = terms
    this.#limits = terms.limits ?? doorLimits
  }

  get placesTaken(): number {
    return this.#places.size
  }

  enter(socket: Socket): void {
    const remote = endpointOf(socket)
    this.#makeRoom(remote.address)
    let received: Uint8Array = new Uint8Array(0)
    let receivedBytes = 0
    const opening = (): Opening => {
      const handle: unknown = Reflect.get(socket, '_handle')
      return { remote, bytes: received.subarray(0, receivedBytes), sentBytes: () => sentBytesOf(handle) }
    }
    const dismiss = (reason: string): void => {
      if (!this.leave(socket)) return
      // A port that is only tried (a monitor, `doctor`) sends nothing: that is no handshake.
      if (receivedBytes > 0) this.#terms.failed(opening(), reason)
      socket.destroy()
    }
    const onEnd = (): void => dismiss('disconnected')
    const onError = (error: Error): void => dismiss(codeOf(error))
    const onData = (chunk: Uint8Array): void => {
      if (receivedBytes + chunk.byteLength > received.byteLength) {
        const larger = new Uint8Array(Math.max(2 * received.byteLength, receivedBytes + chunk.byteLength))
        larger.set(received)
        received = larger
      }
      received.set(chunk, receivedBytes)
      receivedBytes += chunk.byteLength
      const whole = opening()
      if (!this.#terms.openingIsWhole(whole.bytes)) return
      socket.off('end', onEnd).off('error', onError).off('data', onData)
      socket.pause()
      socket.unshift(whole.bytes)
      this.#terms.begin(socket, whole)
    }
    socket.on('end', onEnd).on('error', onError).on('data', onData)
    this.#take(socket, remote.address, dismiss)
  }

  /** The handshake is over, well or badly. False if it was already, and has been told of. */
  leave(socket: object): boolean {
    const place = this.#places.get(socket)
    if (place === undefined) return false
    clearTimeout(place.timer)
    this.#places.delete(socket)
    const left = (this.#ofAddress.get(place.address) ?? 1) - 1
    if (left === 0) this.#ofAddress.delete(place.address)
    else this.#ofAddress.set(place.address, left)
    return true
  }

  #take(socket: Socket, address: string, dismiss: (reason: string) => void): void {
    const timer = setTimeout(() => dismiss('timeout'), this.#limits.handshakeMsMax)
    timer.unref()
    this.#places.set(socket, { address, timer, dismiss })
    this.#ofAddress.set(address, (this.#ofAddress.get(address) ?? 0) + 1)
    // Not at once: what TLS has to say of the end comes right after it.
    socket.once('close', () => setImmediate(() => this.leave(socket)))
  }

  #makeRoom(address: string): void {
    const crowded = (this.#ofAddress.get(address) ?? 0) >= this.#limits.placesOfAddressMax
    if (!crowded && this.#places.size < this.#limits.placesMax) return
    for (const place of this.#places.values()) {
      if (crowded && place.address !== address) continue
      place.dismiss('crowded out')
      return
    }
  }
}

export function endpointOf(socket: Socket): Endpoint {
  return { address: (socket.remoteAddress ?? '').replace(/^::ffff:/, ''), port: socket.remotePort ?? 0 }
}

/** Of the plain socket under a TLS one: Node counts them in its handle. */
function sentBytesOf(handle: unknown): number {
  const count: unknown = handle instanceof Object ? Reflect.get(handle, 'bytesWritten') : undefined
  return typeof count === 'number' ? count : 0
}
