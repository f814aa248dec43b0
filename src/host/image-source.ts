/** Where images come from: a file or a URL, packed or not, as a stream of unpacked bytes with the checksum of what came. */
import { spawn } from 'node:child_process'
import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { Readable, type Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { messageOf, OperationError } from '../base/errors.ts'
import { codeOf, describeOpen } from './file.ts'
import { type HttpPlace, httpGet, labelOfUrl, reasonOf } from './http-get.ts'

export type ImagePacking = 'none' | 'gzip' | 'xz' | 'zstd'

export interface ImageSource {
  /** For people: without user, password and query, which may be secrets. */
  readonly label: string
  readonly packing: ImagePacking
  /** Of what comes, packed as it is; undefined where the server does not say. */
  readonly totalBytes: number | undefined
  /** How much of it has come. */
  readonly receivedBytes: () => number
  /** Once. Unpacked. @throws {OperationError} downloadFailed, unpackFailed, toolMissing, ioError */
  chunks(): AsyncIterable<Uint8Array>
  /** Of what came, when `chunks` has ended. */
  sha256(): string
}

const readBytes = 1024 * 1024

/** @throws {OperationError} fileMissing, fileForbidden, notAFile, downloadFailed */
export async function openImageSource(place: HttpPlace, signal: AbortSignal): Promise<ImageSource> {
  const isRemote = /^https?:\/\//i.test(place.url)
  const opened = isRemote ? await openUrl(place, signal) : await openLocal(place.url)
  const { head, rest } = await peek(opened.body)
  const packing = packingOf(head)
  const hash = createHash('sha256')
  const counted = { bytes: 0 }
  const packed = count(head, rest, hash, counted, opened, signal)
  return {
    label: opened.label,
    packing,
    totalBytes: opened.totalBytes,
    receivedBytes: () => counted.bytes,
    chunks: () => unpack(packing, packed, opened.label),
    sha256: () => hash.digest('hex'),
  }
}

/** What is made here and now, and is not packed. */
export function sourceOfChunks(
  made: { readonly label: string; readonly totalBytes: number; readonly chunks: AsyncIterable<Uint8Array> },
  signal: AbortSignal,
): ImageSource {
  const hash = createHash('sha256')
  const counted = { bytes: 0 }
  const opened = { ...made, body: made.chunks[Symbol.asyncIterator]() }
  return {
    label: made.label,
    packing: 'none',
    totalBytes: made.totalBytes,
    receivedBytes: () => counted.bytes,
    chunks: () => count(new Uint8Array(0), opened.body, hash, counted, opened, signal),
    sha256: () => hash.digest('hex'),
  }
}

type Opened = {
  readonly label: string
  readonly totalBytes: number | undefined
  readonly body: AsyncIterator<Uint8Array>
}

async function openLocal(path: string): Promise<Opened> {
  const found = await stat(path).catch((error: unknown) => {
    throw describeOpen(path, error)
  })
  if (!found.isFile() && !found.isBlockDevice()) {
    throw new OperationError('notAFile', `${path} is not a file`, 'Name an image file, a block device or a URL.')
  }
  const stream = createReadStream(path, { highWaterMark: readBytes })
  const body = errorsAs(stream, (error) => {
    if (codeOf(error) === 'EACCES') return describeOpen(path, error)
    const hint = 'Look at the kernel log (dmesg) for errors of the disk that holds it.'
    return new OperationError('ioError', `cannot read ${path}: ${codeOf(error)}`, hint, { cause: error })
  })
  return { label: path, totalBytes: found.isFile() ? found.size : undefined, body }
}

async function openUrl(place: HttpPlace, signal: AbortSignal): Promise<Opened> {
  if (!URL.canParse(place.url)) {
    throw new OperationError('usage', `${place.url} is not a URL`, 'Write it like https://HOST/FILE.')
  }
  const label = labelOfUrl(place.url)
  const failed = (why: string, cause: unknown, next = 'Check the address and the network'): OperationError => {
    const hint = `${next.replace(/[.]$/, '')}; then add it again: nothing was kept.`
    return new OperationError('downloadFailed', `cannot fetch ${label}: ${why}`, hint, { cause })
  }
  // The checksum is of the file as it lies there.
  const reply = await httpGet(place, { 'accept-encoding': 'identity' }, signal).catch((error: unknown) => {
    if (signal.aborted) throw interrupted()
    throw failed(reasonOf(error), error, error instanceof OperationError ? error.hint : undefined)
  })
  if (reply.status !== 200) {
    reply.stop()
    throw failed(`the server says ${reply.statusText}`, undefined)
  }
  const said = reply.headers['content-length']
  const body = errorsAs(reply.body, (error) => (signal.aborted ? interrupted() : failed(reasonOf(error), error)))
  return { label, totalBytes: said === undefined ? undefined : Number(said), body }
}

async function* errorsAs(
  stream: AsyncIterable<Uint8Array>,
  describe: (error: unknown) => unknown,
): AsyncGenerator<Uint8Array> {
  try {
    yield* stream
  } catch (error) {
    throw describe(error)
  }
}

async function peek(body: AsyncIterator<Uint8Array>): Promise<{ head: Uint8Array; rest: AsyncIterator<Uint8Array> }> {
  const parts: Uint8Array[] = []
  let bytes = 0
  while (bytes < 6) {
    const next = await body.next()
    if (next.done === true) break
    parts.push(next.value)
    bytes += next.value.byteLength
  }
  return { head: Buffer.concat(parts), rest: body }
}

/** By how it begins. */
export function packingOf(head: Uint8Array): ImagePacking {
  const begins = (...bytes: number[]): boolean => bytes.every((byte, index) => head[index] === byte)
  if (begins(0x1f, 0x8b)) return 'gzip' // RFC 1952 §2.3.1
  if (begins(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00)) return 'xz' // The .xz file format §2.1.1.1
  if (begins(0x28, 0xb5, 0x2f, 0xfd)) return 'zstd' // RFC 8878 §3.1.1
  return 'none'
}

async function* count(
  head: Uint8Array,
  rest: AsyncIterator<Uint8Array>,
  hash: Hash,
  counted: { bytes: number },
  { label, totalBytes }: Opened,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  try {
    for (let chunk: Uint8Array | undefined = head; chunk !== undefined; ) {
      if (signal.aborted) throw interrupted()
      hash.update(chunk)
      counted.bytes += chunk.byteLength
      yield chunk
      const next: IteratorResult<Uint8Array> = await rest.next()
      chunk = next.done === true ? undefined : next.value
    }
  } finally {
    await rest.return?.()
  }
  if (totalBytes !== undefined && counted.bytes !== totalBytes) {
    const what = `${label} ended after ${counted.bytes} of ${totalBytes} bytes`
    throw new OperationError('downloadFailed', what, 'Add it again: nothing was kept.')
  }
}

function interrupted(): OperationError {
  return new OperationError('interrupted', 'stopped before the image was whole', 'Nothing was kept; add it again.')
}

async function* unpack(
  packing: ImagePacking,
  packed: AsyncIterable<Uint8Array>,
  label: string,
): AsyncGenerator<Uint8Array> {
  if (packing === 'none') {
    yield* packed
    return
  }
  const describe = (error: unknown): unknown => {
    if (error instanceof OperationError) return error
    const hint = 'It is damaged or was cut off: compare its checksum with the publisher, and fetch it again.'
    return new OperationError('unpackFailed', `${label} does not unpack: ${messageOf(error)}`, hint, { cause: error })
  }
  if (packing === 'xz') {
    yield* throughXz(packed, describe)
    return
  }
  const step: Transform =
    packing === 'gzip' ? createGunzip({ chunkSize: readBytes }) : createZstdDecompress({ chunkSize: readBytes })
  // What breaks, breaks both ends: the reader below gets it from the step's own stream.
  const fed = pipeline(Readable.from(packed, { objectMode: true }), step)
  fed.catch(() => undefined)
  try {
    yield* step as AsyncIterable<Uint8Array>
    await fed
  } catch (error) {
    throw describe(
      await fed.then(
        () => error,
        (cause: unknown) => cause,
      ),
    )
  }
}

async function* throughXz(
  packed: AsyncIterable<Uint8Array>,
  describe: (error: unknown) => unknown,
): AsyncGenerator<Uint8Array> {
  const child = spawn('xz', ['-dc', '--format=xz'], { stdio: ['pipe', 'pipe', 'pipe'] })
  const words: string[] = []
  child.stderr.setEncoding('utf8').on('data', (text: string) => words.push(text))
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', (error) => {
      const hint = 'Install it (apt install xz-utils), or unpack the image first.'
      reject(
        codeOf(error) === 'ENOENT'
          ? new OperationError('toolMissing', 'an .xz image needs the program xz, which is not here', hint)
          : error,
      )
    })
    child.once('close', resolve)
  })
  ended.catch(() => undefined)
  const fed = pipeline(Readable.from(packed, { objectMode: true }), child.stdin)
  fed.catch(() => undefined)
  try {
    yield* child.stdout as AsyncIterable<Uint8Array>
    const code = await ended
    // A source that broke off matters more than what xz says of it.
    await fed.catch((error: unknown) => {
      if (error instanceof OperationError) throw error
    })
    if (code !== 0) throw new Error(words.join('').trim() || `xz ended with ${code}`)
  } catch (error) {
    throw describe(error)
  } finally {
    child.kill()
  }
}
