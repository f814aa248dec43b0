/**
 * Every frame of a virtual network card through a function of ours. QEMU's filter-redirector hands each to a socket, as a
 * length and the frame, and takes it back, changed, from another.
 */
import { createServer, type Server, type Socket } from 'node:net'

const frameLimitBytes = 65_536 + 64

/** Seen from QEMU's netdev: `rx` is what it receives, which is what the guest sends; `tx` what it gives to the guest. */
export type Queue = 'rx' | 'tx'

/** Undefined: the frame goes nowhere. */
export type Rewrite = (frame: Uint8Array) => Uint8Array | undefined

/** The sockets that QEMU connects to, in a folder of the machine's own. */
export class FrameRedirector {
  readonly #servers: Server[] = []
  readonly #sockets = new Set<Socket>()

  /** @returns QEMU's arguments for one queue of `netdev`. */
  async listen(folder: string, netdev: string, queue: Queue, rewrite: Rewrite): Promise<string[]> {
    const name = `${netdev}-${queue}`
    const taken = `${folder}/${name}-taken.sock`
    const given = `${folder}/${name}-given.sock`
    let back: Socket | undefined
    await this.#accept(given, (socket) => {
      back = socket
    })
    await this.#accept(taken, (socket) => {
      let buffered: Buffer = Buffer.alloc(0)
      socket.on('data', (chunk) => {
        buffered = Buffer.concat([buffered, chunk])
        while (buffered.byteLength >= 4) {
          const bytes = buffered.readUInt32BE(0)
          if (bytes > frameLimitBytes) socket.destroy(new Error(`a frame of ${bytes} bytes`))
          if (buffered.byteLength < 4 + bytes) break
          const frame = rewrite(buffered.subarray(4, 4 + bytes))
          buffered = buffered.subarray(4 + bytes)
          if (frame === undefined) continue
          const header = Buffer.alloc(4)
          header.writeUInt32BE(frame.byteLength)
          back?.write(Buffer.concat([header, frame]))
        }
      })
    })
    const give = ['-object', `filter-redirector,id=${name}-give,netdev=${netdev},queue=${queue},indev=${name}-given`]
    const take = ['-object', `filter-redirector,id=${name}-take,netdev=${netdev},queue=${queue},outdev=${name}-taken`]
    return [
      ...['-chardev', `socket,id=${name}-taken,path=${taken}`],
      ...['-chardev', `socket,id=${name}-given,path=${given}`],
      // rx passes its filters from the last to the first, tx from the first to the last.
      ...(queue === 'rx' ? [...give, ...take] : [...take, ...give]),
    ]
  }

  async #accept(path: string, use: (socket: Socket) => void): Promise<void> {
    const server = createServer((socket) => {
      this.#sockets.add(socket)
      socket.on('error', () => socket.destroy())
      socket.on('close', () => this.#sockets.delete(socket))
      use(socket)
    })
    this.#servers.push(server)
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, resolve)
    })
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy()
    for (const server of this.#servers) server.close()
  }
}
