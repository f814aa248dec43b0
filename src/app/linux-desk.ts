/**
 * Where a machine that starts its kernel without its disk's boot loader (start = "kernel") gets its parts: kernel and initramfs
 * of its own clone, and the archive with what this boot has to know. What there is to fetch is of one boot and ends with its
 * first login: from then on nothing needs it.
 */
import type { Mac } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { putLast } from '../base/bounded-map.ts'
import { OperationError } from '../base/errors.ts'
import { Secret, secretsEqual } from '../base/secret.ts'
import { type NoKernel, settingsFile } from '../boot/kernel-script.ts'
import { kernelLine, settingsArchive } from '../boot/linux-settings.ts'
import { openDisk } from '../disk/inspect.ts'
import { findLinuxStart, type LinuxStart } from '../disk/linux-start.ts'
import { type ByteSource, chunksOf, isDiskError } from '../disk/source.ts'
import { type BootCredentials, base32 } from '../fleet/credentials.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { HttpAnswer, HttpFile, HttpRequest } from '../http/policy.ts'
import { type InitramfsLogin, initramfsLogin } from '../images/initramfs-login.ts'
import { initramfsBytesMax } from '../images/limits.ts'
import type { Clock } from '../ports/clock.ts'
import type { Hash } from '../ports/hash.ts'
import type { Unpacker } from '../ports/unpack.ts'
import { parseBasic } from './basic-auth.ts'
import { bytesFile, nothingThere } from './boot-answers.ts'
import type { ChapMode } from './config.ts'

export type LinuxDeskParts = {
  readonly fleet: Fleet
  /** What the machine's next boot will have on its disk; open while it is being read. @throws {OperationError} */
  openDisk(mac: Mac): Promise<ByteSource>
  readonly clock: Clock
  readonly hash: Hash
  readonly unpacker: Unpacker
  readonly chap: ChapMode
  /** Where the target listens, for a machine that asked at `localAddress`. */
  portal(localAddress: string): { readonly address: string; readonly port: number }
}

/** What a script needs of it. */
export type FoundKernel =
  | {
      readonly kind: 'found'
      readonly words: readonly string[]
      readonly isPc: boolean
      /** Names under which `serve` has them. */
      readonly kernel: string
      readonly initramfs: readonly string[]
    }
  /** `detail` is for the event: which file, which partition. */
  | { readonly kind: 'none'; readonly why: NoKernel; readonly detail: string }

/** Machines whose disk was looked at lately; one that is forgotten is looked at again. */
const startsMax = 1_024
/** Initramfs archives that were judged: as many as there are kernels in use. */
const judgedMax = 256
const kernelFile = 'kernel'
const initramfsFile = (index: number): string => `initramfs-${index}`

export class LinuxDesk {
  readonly #parts: LinuxDeskParts
  readonly #starts = new Map<Mac, LinuxStart>()
  readonly #looking = new Map<Mac, Promise<FoundKernel>>()
  readonly #judged = new Map<string, InitramfsLogin>()
  /** One initramfs at a time is unpacked: it may take half a gigabyte. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(parts: LinuxDeskParts) {
    this.#parts = parts
  }

  /**
   * Looks at the machine's disk as it is now; who asks while it is being looked at gets the same answer.
   * @throws {OperationError} the disk cannot be opened or read
   */
  find(mac: Mac): Promise<FoundKernel> {
    const looking = this.#looking.get(mac)
    if (looking !== undefined) return looking
    const found = this.#find(mac).finally(() => this.#looking.delete(mac))
    this.#looking.set(mac, found)
    return found
  }

  async #find(mac: Mac): Promise<FoundKernel> {
    const found = await findLinuxStart(await openDisk(await this.#parts.openDisk(mac)))
    if (found.kind === 'missing') return { kind: 'none', why: 'unreadable', detail: found.why }
    const { start } = found
    const words = kernelLine({ commandLine: start.commandLine, mac })
    if (words === undefined) return { kind: 'none', why: 'unsayable', detail: `${start.menu}: ${start.commandLine}` }
    const names = start.initramfs.map(({ path }) => path).join(', ') || 'no initramfs'
    try {
      if ((await this.#judge(start)) === 'neither') return { kind: 'none', why: 'noIscsi', detail: names }
    } catch (error) {
      if (!isDiskError(error) && !(error instanceof OperationError && error.code === 'unpackFailed')) throw error
      return { kind: 'none', why: 'noIscsi', detail: `${names}: ${error.message}` }
    }
    putLast(this.#starts, mac, start, startsMax)
    return {
      kind: 'found',
      words,
      isPc: start.architecture === undefined || start.architecture === 'x86_64' || start.architecture === 'x86',
      kernel: kernelFile,
      initramfs: start.initramfs.map((_, index) => initramfsFile(index)),
    }
  }

  /** With which the files of a boot are asked for: known to who has its secrets, so that a restart of Slipway changes nothing. */
  keyOf(boot: BootCredentials): Secret {
    const parts = ['slipway linux files', boot.bootId, boot.initiator.secret.reveal(), boot.target.secret.reveal()]
    const encoder = new TextEncoder()
    const digest = this.#parts.hash.digest('sha256', [encoder.encode(parts.join('\n'))])
    return new Secret(base32(digest.subarray(0, 20)))
  }

  /** GET /linux/MAC/FILE. */
  async serve(mac: Mac, file: string, request: HttpRequest): Promise<HttpAnswer> {
    const shown = parseBasic(request.headers.get('authorization'))
    // iPXE sends what is in the address when it is asked for it.
    if (shown === undefined) return askForKey
    const { clock, fleet } = this.#parts
    const machine = fleet.machine(mac)
    if (machine !== undefined && !request.secure && fleet.transportOf(machine) === 'strict') return nothingThere
    const boot = fleet.offeredBoot(mac, shown.name, clock.wallMs())
    if (boot === undefined || !secretsEqual(shown.password, this.keyOf(boot))) return nothingThere
    if (file === settingsFile) {
      const archive = this.#settingsOf(boot, request.local.address)
      assert(archive.byteLength % 4 === 0, 'an archive of ours is padded')
      return answerOf(bytesFile(archive))
    }
    const source = (await this.#startOf(mac))?.get(file)
    return source === undefined ? nothingThere : answerOf(paddedFile(source))
  }

  #settingsOf(boot: BootCredentials, localAddress: string): Uint8Array {
    const { chap, portal } = this.#parts
    const { initiator, initiatorName, target, targetName } = boot
    return settingsArchive({
      portal: portal(localAddress),
      targetName,
      initiatorName,
      initiator: chap === 'none' ? undefined : initiator,
      target: chap === 'mutual' ? target : undefined,
    })
  }

  /** By the names of `find`. */
  async #startOf(mac: Mac): Promise<ReadonlyMap<string, ByteSource> | undefined> {
    // Slipway was restarted between a script and what it fetches.
    if (!this.#starts.has(mac)) await this.find(mac)
    const start = this.#starts.get(mac)
    if (start === undefined) return undefined
    const initramfs = start.initramfs.map(({ source }, index) => [initramfsFile(index), source] as const)
    return new Map([[kernelFile, start.kernel.source], ...initramfs])
  }

  /** Read whole, since it is about to be fetched anyway; unpacked once for all machines that have the same. */
  #judge({ initramfs }: LinuxStart): Promise<InitramfsLogin> {
    const judged = this.#turn.then(async () => {
      const { hash, unpacker } = this.#parts
      const archives: Uint8Array[] = []
      const digests: Uint8Array[] = []
      if (initramfs.reduce((sum, { source }) => sum + source.sizeBytes, 0) > initramfsBytesMax) return 'unknown'
      for (const { source } of initramfs) {
        const archive = new Uint8Array(source.sizeBytes)
        let at = 0
        for await (const chunk of chunksOf(source)) {
          archive.set(chunk, at)
          at += chunk.byteLength
          digests.push(hash.digest('sha256', [chunk]))
        }
        archives.push(archive)
      }
      const key = base32(hash.digest('sha256', digests))
      const known = this.#judged.get(key)
      if (known !== undefined) return known
      const login = await initramfsLogin(archives, unpacker)
      putLast(this.#judged, key, login, judgedMax)
      return login
    })
    this.#turn = judged.catch(() => undefined)
    return judged
  }
}

/** The kernel looks for the next archive at a multiple of four, and some loaders put one right behind the other. */
function paddedFile(source: ByteSource): HttpFile {
  const sizeBytes = Math.ceil(source.sizeBytes / 4) * 4
  return {
    sizeBytes,
    read: async (offset, target) => {
      const there = Math.max(0, Math.min(target.byteLength, source.sizeBytes - offset))
      target.set(await source.read(Math.min(offset, source.sizeBytes), there))
      target.fill(0, there)
    },
  }
}

const headers = { 'Content-Type': 'application/octet-stream', 'Cache-Control': 'no-store' } as const

function answerOf(file: HttpFile): HttpAnswer {
  return { status: 200, headers, body: { kind: 'file', file } }
}

/** RFC 7617 §2. */
const askForKey: HttpAnswer = {
  status: 401,
  headers: { 'WWW-Authenticate': 'Basic realm="Slipway boot"', 'Cache-Control': 'no-store' },
  body: { kind: 'text', text: 'This is of one boot, whose script has the key.\n' },
}
