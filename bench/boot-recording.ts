/**
 * A boot as its disk saw it: every read and write, in the order in which they came. A text file; after the lines with '#', a
 * line for each request:
 *
 *   r|w  <where it begins, in blocks of 512 bytes, from where the one before it ended>  <blocks>      both in base 36
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { TraceRecorder } from '../src/block/boot-trace.ts'

export const recordedBlockBytes = 512

export type RecordedRequest = { readonly write: boolean; readonly offset: number; readonly bytes: number }

export type BootRecording = { readonly diskBytes: number; readonly requests: readonly RecordedRequest[] }

/** Made by `node bench/record-boot.ts`. */
export const recordingFile: string = join(import.meta.dirname, 'storm-boot.txt')

export function encodeRecording({ diskBytes, requests }: BootRecording, remarks: readonly string[]): string {
  const lines = [...remarks.map((remark) => `# ${remark}`), `disk ${diskBytes}`]
  let expected = 0
  for (const { write, offset, bytes } of requests) {
    const block = offset / recordedBlockBytes
    const count = bytes / recordedBlockBytes
    lines.push(`${write ? 'w' : 'r'} ${(block - expected).toString(36)} ${count.toString(36)}`)
    expected = block + count
  }
  return `${lines.join('\n')}\n`
}

export function readRecording(path: string = recordingFile): BootRecording {
  const lines = readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
  const requests: RecordedRequest[] = []
  let diskBytes = 0
  let expected = 0
  for (const line of lines) {
    const [word = '', first = '', second = ''] = line.split(' ')
    if (word === 'disk') {
      diskBytes = Number(first)
      continue
    }
    const block = expected + Number.parseInt(first, 36)
    const count = Number.parseInt(second, 36)
    const request = { write: word === 'w', offset: block * recordedBlockBytes, bytes: count * recordedBlockBytes }
    if (!(count > 0 && request.offset >= 0 && request.offset + request.bytes <= diskBytes)) {
      throw new Error(`${path}: not a request of this disk: ${line}`)
    }
    requests.push(request)
    expected = block + count
  }
  return { diskBytes, requests }
}

/** What Slipway itself would keep of that boot. */
export function traceOf({ diskBytes, requests }: BootRecording): ReturnType<TraceRecorder['trace']> {
  const recorder = new TraceRecorder(diskBytes)
  for (const { write, offset, bytes } of requests) if (!write) recorder.note(offset, bytes)
  return recorder.trace()
}
