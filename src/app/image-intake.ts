/** How an image comes into the library: unpacked, checked, looked into, and only then named in the catalogue. */
import { messageOf, OperationError } from '../base/errors.ts'
import { openRawDevice } from '../block/file.ts'
import { checkQcow2 } from '../block/qcow2/check.ts'
import { noBacking, openQcow2, readHeader } from '../block/qcow2/open.ts'
import { whatIsOn } from '../disk/inspect.ts'
import { systemClock } from '../host/clock.ts'
import { nodeCompression } from '../host/compression.ts'
import { makeReadOnly, renameDurably } from '../host/directory.ts'
import { openFile } from '../host/file.ts'
import { sha256OfFile } from '../host/hash.ts'
import type { ImageSource } from '../host/image-source.ts'
import { join } from '../host/path.ts'
import { convertToRaw, type ForeignFormat } from '../host/qemu-img.ts'
import { writeSparse } from '../host/sparse-writer.ts'
import type { ImageFormat, ImageVersion } from '../images/catalogue.ts'
import { recognisedBytes, recogniseFormat } from '../images/foreign.ts'
import { imageBytesMax } from '../images/limits.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import type { AddDisk, AddOptions, Library } from './library.ts'

/** The caller has the name's lock, and takes `draft` away if this fails. @throws {OperationError} */
export async function bringIn(
  library: Library,
  from: ImageSource,
  { name, sha256, signal, onProgress, finish }: Omit<AddOptions, 'source'> & Pick<AddDisk, 'finish'>,
  draft: string,
): Promise<ImageVersion> {
  const written = await withFile(draft, 'createOrTruncate', (file) =>
    writeSparse(file, bounded(from.chunks()), (writtenBytes) => {
      onProgress({ receivedBytes: from.receivedBytes(), totalBytes: from.totalBytes, writtenBytes })
    }),
  )
  const sourceSha256 = from.sha256()
  if (sha256 !== undefined && sha256.toLowerCase() !== sourceSha256) {
    const hint = 'It was damaged on its way, or is not the file you mean. Nothing was kept.'
    throw new OperationError('checksumWrong', `${from.label} has SHA-256 ${sourceSha256}, not ${sha256}`, hint)
  }
  if (written.sizeBytes === 0) {
    throw new OperationError('imageEmpty', `${from.label} is empty`, 'Fetch it again. Nothing was kept.')
  }
  await finish?.(draft)
  const writtenSha256 = finish === undefined ? written.sha256 : await sha256At(draft)
  const whole = await readable(draft, from.label, writtenSha256, signal)
  const found = await withFile(whole.path, 'readOnly', (file) => lookInto(file, whole.format, from.label))
  // Neither qemu-img nor who finished it says that its bytes are on stable storage.
  await withFile(whole.path, 'readOnly', (file) => file.sync())
  await makeReadOnly(whole.path)
  const version = library.store.nextVersion(name)
  const file = `${name}@${version}.${whole.format}`
  await renameDurably(whole.path, join(library.directory, file))
  const { sha256: writtenDigest } = whole
  return enter(library, { name, version, file, ...found, sha256: writtenDigest, source: from.label, sourceSha256 })
}

/** The draft as raw or qcow2; what is neither is converted. */
async function readable(
  draft: string,
  label: string,
  sha256: string,
  signal: AbortSignal,
): Promise<{ path: string; format: ImageFormat; sha256: string }> {
  const head = new Uint8Array(recognisedBytes)
  await withFile(draft, 'readOnly', async (file) => file.read(0, head))
  const format = recogniseFormat(head)
  if (format === 'raw' || format === 'qcow2') return { path: draft, format, sha256 }
  if (format === 'vmdkDescriptor') {
    const hint = 'Make one file of it where its parts are: qemu-img convert -O qcow2 FILE.vmdk WHOLE.qcow2.'
    throw new OperationError('imageUnsupported', `${label} only describes a disk whose parts are other files`, hint)
  }
  const path = `${draft}.converted`
  await convertToRaw({ path: draft, format: format satisfies ForeignFormat }, path, signal)
  return { path, format: 'raw', sha256: await sha256At(path) }
}

function sha256At(path: string): Promise<string> {
  return withFile(path, 'readOnly', (file) => sha256OfFile(file))
}

/** What the disk is, after making sure that all of it is there. @throws {OperationError} imageCorrupt, imageUnsupported */
export async function lookInto(
  file: RandomAccessFile,
  format: ImageFormat,
  label: string,
): Promise<Pick<ImageVersion, 'format' | 'sizeBytes' | 'contents'>> {
  try {
    if (format === 'qcow2') await checkWhole(file, label)
    const device =
      format === 'raw'
        ? await openRawDevice(file, { readOnly: true })
        : await openQcow2(file, { compression: nodeCompression, backing: noBacking, readOnly: true })
    return { format, sizeBytes: device.sizeBytes, contents: await whatIsOn(device) }
  } catch (error) {
    // The draft's path means nothing to the person who named the source.
    if (!(error instanceof OperationError)) throw error
    throw new OperationError(error.code, error.message.replaceAll(file.path, label), error.hint, { cause: error })
  }
}

/** From now on machines can have it. @throws {OperationError} databaseUnusable */
export function enter(library: Library, version: Omit<ImageVersion, 'addedMs'>): ImageVersion {
  const added: ImageVersion = { ...version, addedMs: systemClock.wallMs() }
  library.store.add(added)
  return added
}

/** @throws {OperationError} imageUnsupported, imageCorrupt */
async function checkWhole(file: RandomAccessFile, label: string): Promise<void> {
  const header = await readHeader(file)
  if (header.backing !== undefined) {
    const hint = 'Make one file of it where the other one is: qemu-img convert -O qcow2 FILE WHOLE.qcow2.'
    throw new OperationError('imageUnsupported', `${label} stands on another file, ${header.backing.name}`, hint)
  }
  const { errorCount, faults } = await checkQcow2(file, header)
  if (errorCount === 0) return
  const hint = 'It is damaged or was cut off: fetch it again, or look at it with qemu-img check FILE. Nothing was kept.'
  throw new OperationError('imageCorrupt', `${label} is not whole: ${faults[0] ?? `${errorCount} errors`}`, hint)
}

async function* bounded(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let bytes = 0
  for await (const chunk of chunks) {
    bytes += chunk.byteLength
    if (bytes > imageBytesMax) {
      throw new OperationError('imageUnsupported', `it unpacks to more than ${imageBytesMax} bytes`, 'Is it an image?')
    }
    yield chunk
  }
}

async function withFile<T>(
  path: string,
  mode: 'readOnly' | 'createOrTruncate',
  action: (file: RandomAccessFile) => Promise<T> | T,
): Promise<T> {
  const file = await openFile(path, mode)
  try {
    return await action(file)
  } finally {
    await file.close().catch((error: unknown) => {
      throw new OperationError(
        'ioError',
        `cannot close ${path}: ${messageOf(error)}`,
        'Look at the kernel log (dmesg).',
      )
    })
  }
}
