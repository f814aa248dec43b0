/**
 * npm run demo                        a virtual PC with UEFI and no disk boots Linux from Slipway
 * npm run demo -- --firmware bios     the same with SeaBIOS and the network card's iPXE ROM
 *
 * Everything happens in a private network namespace on this machine; nothing of it is left when it ends.
 */
import { basename } from 'node:path'
import { parseArgs } from 'node:util'
import { type GoldenImage, goldenImage, machineSays, sha256OfFile } from '../lab/golden-image.ts'
import { type Firmware, Machine } from '../lab/machine.ts'
import { LabNetwork, lab } from '../lab/namespace.ts'
import { SlipwayServer } from '../lab/slipway.ts'
import { messageOf, OperationError } from '../src/base/errors.ts'
import { formatBytes } from '../src/base/units.ts'
import type { BootEvent, EventKind } from '../src/journal/events.ts'
import { sentence } from '../src/journal/text.ts'

const firmwares = {
  uefi: { firmware: 'uefi', words: 'UEFI (OVMF)' },
  bios: { firmware: 'bios-ipxe-rom', words: 'BIOS (SeaBIOS, iPXE ROM)' },
} as const satisfies Record<string, { readonly firmware: Firmware; readonly words: string }>

const usage = 'npm run demo [-- --firmware uefi|bios]'
const bootWithinMs = 120_000
const uuid = '5c1b0a7e-1234-4abc-8def-536c69707761'

/** What must be undone, last first, however the demo ends. */
const undo: (() => Promise<unknown>)[] = []
let cleaning: Promise<void> | undefined
let interrupted = false

function chosenFirmware(): keyof typeof firmwares {
  const options = { firmware: { type: 'string', default: 'uefi' }, help: { type: 'boolean', short: 'h' } } as const
  let values: { firmware: string; help?: boolean }
  try {
    values = parseArgs({ options }).values
  } catch (error) {
    throw new OperationError('usage', messageOf(error), usage)
  }
  if (values.help === true) {
    console.log(usage)
    process.exit(0)
  }
  if (values.firmware === 'uefi' || values.firmware === 'bios') return values.firmware
  throw new OperationError('usage', `there is no firmware called ${values.firmware} here`, usage)
}

async function demo(choice: keyof typeof firmwares): Promise<void> {
  const { firmware, words } = firmwares[choice]
  console.log('Slipway demo: a PC without a disk boots Linux from a disk image on this machine.\n')

  const golden = await step('golden image', async () => {
    const image = await goldenImage('tiny')
    return [image, `GPT, GRUB, Debian's kernel ${image.kernelRelease}, busybox: ${basename(image.path)}`]
  })
  const network = await step('private network', async () => {
    const made = await LabNetwork.create()
    undo.push(() => made.close())
    return [made, `${lab.network}/${lab.prefixLength}, no way out`]
  })
  const server = await step('slipway up', async () => {
    const started = await SlipwayServer.start({ network, imagePath: golden.path, dhcp: 'own', admit: 'all' })
    undo.push(() => started.stop())
    return [started, `DHCP, TFTP, HTTP and iSCSI on ${lab.serverAddress}`]
  })
  const machine = await step('power on', async () => {
    const on = await Machine.powerOn({ network, firmware, uuid, serialNumber: 'DEMO-1' })
    undo.push(() => on.powerOff())
    return [on, `${on.mac}, ${words}, 512 MiB, no disk`]
  })

  console.log('')
  const story = new Story(machine, server)
  await machine.waitFor(machineSays.ready, bootWithinMs)
  await summarise(golden, story, machine.upMs() / 1000)
  console.log('\nSwitching the machine off, stopping Slipway ...')
  await cleanUp()
  console.log('Nothing is left of it but the image, in .cache/lab, for the next time.')
}

/** Does one thing and says how long it took. */
async function step<T>(name: string, action: () => Promise<[T, string]>): Promise<T> {
  const started = performance.now()
  const [value, words] = await action()
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  console.log(`  ${name.padEnd(16)} ${words} (${seconds} s)`)
  return value
}

type Phase = { readonly name: string; readonly fromMs: number }

/** Tells what happens while it happens: the server's events and the machine's own screen, in seconds since power-on. */
class Story {
  readonly phases: Phase[] = [{ name: 'firmware', fromMs: 0 }]
  /** By the server's count, over all sessions. */
  readBytes = 0
  writtenBytes = 0
  mutual = false
  readonly #machine: Machine
  #lastWords = ''

  constructor(machine: Machine, server: SlipwayServer) {
    this.#machine = machine
    server.onEvent((event) => this.#serverSays(event))
    machine.screen.onLine(({ atMs, text }) => this.#machineSays(atMs, text))
  }

  #serverSays(event: BootEvent): void {
    if (event.kind === 'progress') {
      this.readBytes = event.readBytes
      this.writtenBytes = event.writtenBytes
    }
    if (event.kind === 'iscsiLogin' && event.authentication === 'mutual') this.mutual = true
    const who = speaker(event.kind)
    if (who !== undefined) {
      // A URL's query is for iPXE to fill in.
      this.#tell(this.#machine.upMs(), who, `the machine ${sentence(event)}`.replace(/\?\S+/, ''))
    }
  }

  #machineSays(atMs: number, text: string): void {
    if (/^iPXE [\d.]+/.test(text)) this.#enter('iPXE', atMs, text.split(' -- ')[0] ?? text)
    else if (text.startsWith('Welcome to GRUB')) this.#enter('GRUB and Linux', atMs, text)
    else if (/^SLIPWAY-LAB (ready|ibft target)/.test(text)) this.#tell(atMs, 'screen', text)
  }

  #enter(name: string, atMs: number, text: string): void {
    if (!this.phases.some((phase) => phase.name === name)) this.phases.push({ name, fromMs: atMs })
    this.#tell(atMs, 'screen', text)
  }

  #tell(atMs: number, who: string, words: string): void {
    // Firmware repeats itself: DHCP twice, a second session for the same disk.
    if (words === this.#lastWords) return
    this.#lastWords = words
    console.log(`  ${(atMs / 1000).toFixed(1).padStart(5)} s  ${who.padEnd(7)} ${words}`)
  }
}

/** Which server speaks; undefined for what is not worth a line here. */
function speaker(kind: EventKind): string | undefined {
  switch (kind) {
    case 'dhcpDiscover':
    case 'dhcpAck':
      return 'DHCP'
    case 'tftpDone':
      return 'TFTP'
    case 'scriptServed':
      return 'HTTP'
    case 'iscsiLogin':
    case 'iscsiLoginFailed':
    case 'firstRead':
    case 'firstWrite':
    case 'diskFailed':
      return 'iSCSI'
    case 'failed':
      return 'failed'
    default:
      return undefined
  }
}

async function summarise(golden: GoldenImage, story: Story, secondsToLinux: number): Promise<void> {
  const untouched = (await sha256OfFile(golden.path)) === golden.sha256
  if (!untouched)
    throw new OperationError('goldenChanged', 'the golden image was written to', 'This is a bug: tell us.')
  console.log(
    `\nFrom power-on to Linux in ${secondsToLinux.toFixed(1)} s, without a disk and with its firmware untouched.\n`,
  )
  for (const [index, { name, fromMs }] of story.phases.entries()) {
    const untilMs = story.phases[index + 1]?.fromMs ?? secondsToLinux * 1000
    const seconds = (untilMs - fromMs) / 1000
    console.log(
      `  ${name.padEnd(14)} ${seconds.toFixed(1).padStart(5)} s  ${'#'.repeat(Math.min(50, Math.round(seconds * 4)))}`,
    )
  }
  const who = story.mutual ? 'machine and disk proved themselves to each other (mutual CHAP)' : 'no proof was asked for'
  console.log(`
  disk           ${formatBytes(story.readBytes)} read over iSCSI, ${formatBytes(story.writtenBytes)} written to the machine's own clone
  trust          ${who}, secrets made for this boot only
  golden image   SHA-256 ${golden.sha256.slice(0, 16)}... before and after: not a byte written

Now a real one:   bin/slipway doctor IMAGE   looks first, then   bin/slipway up IMAGE   serves it to your network.`)
}

/** Once, whoever asks first; errors are told and do not keep the rest from being undone. */
function cleanUp(): Promise<void> {
  cleaning ??= (async () => {
    for (const action of undo.reverse()) await action().catch((error) => console.error(messageOf(error)))
  })()
  return cleaning
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    interrupted = true
    console.error('\nStopped; cleaning up ...')
    void cleanUp().finally(() => process.exit(130))
  })
}

try {
  await demo(chosenFirmware())
} catch (error) {
  // After Ctrl-C everything fails, because it is being taken away.
  if (!interrupted) {
    console.error(`\nslipway demo: ${messageOf(error)}`)
    if (error instanceof OperationError && error.hint !== '') console.error(`  ${error.hint}`)
    process.exitCode = 1
  }
} finally {
  await cleanUp()
}
