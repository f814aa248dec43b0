/**
 * A diskless PC in QEMU, its firmware untouched, on the lab's network. Its serial console is its screen: SeaBIOS and iPXE
 * show there what they would show on a monitor (QEMU's `graphics=off` tells SeaBIOS to), and so do OVMF, GRUB and Linux.
 */
import { access, copyFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { setTimeout as delay } from 'node:timers/promises'
import type { Mac } from '../src/base/address.ts'
import { OperationError } from '../src/base/errors.ts'
import type { Child } from './child.ts'
import { FrameRedirector } from './frame-redirector.ts'
import { type LabNetwork, lab } from './namespace.ts'
import { PlainPxe } from './plain-pxe.ts'
import { Screen, type Seen } from './screen.ts'
import { tagged, untagged } from './vlan-port.ts'

export type Firmware =
  /** SeaBIOS and the network card's own iPXE ROM. */
  | 'bios-ipxe-rom'
  /** SeaBIOS and a PXE ROM that does not say it is iPXE: gets its loader by TFTP. */
  | 'bios-pxe'
  /** OVMF: UEFI's own PXE. */
  | 'uefi'
  /** OVMF with PXE switched off: UEFI's own HTTP boot. */
  | 'uefi-http'
  /** U-Boot for x86_64; stops at its prompt, where `type` gives it commands. */
  | 'uboot-x86'
  /** The same for arm64, on a board that is an arm64 one through and through. */
  | 'uboot-arm64'

export type MachineOptions = {
  readonly network: LabNetwork
  readonly firmware: Firmware
  readonly mac?: Mac
  /** SMBIOS system UUID and serial number: what DHCP option 97 and iPXE tell the server. */
  readonly uuid?: string
  readonly serialNumber?: string
  readonly memoryMebibytes?: number
  /** What the machine's clock says at power-on, in UTC: '2099-01-01T00:00:00'. Default: the right time. */
  readonly clock?: string
  /** UEFI: a file with the authorities that its HTTPS believes, as `slipway ca export --format efi` writes it. */
  readonly enrolledAuthorities?: string
  /** Its port carries this VLAN too, with tags: the network's storage network (`LabNetwork.addStorage`). */
  readonly storageVlan?: number
  /** A disk of its own, which it starts from before it asks the network: a file, or what else QEMU can open. */
  readonly disk?: { readonly file: string; readonly format: 'raw' | 'qcow2' }
}

const ovmfCode = '/usr/share/OVMF/OVMF_CODE_4M.fd'
const ovmfVariables = '/usr/share/OVMF/OVMF_VARS_4M.fd'
const uboot = '/usr/lib/u-boot/qemu-x86_64/u-boot.rom'
const ubootArm64 = '/usr/lib/u-boot/qemu_arm64/u-boot.bin'

/** The Debian package of each file a firmware needs. */
const packageOf: Readonly<Record<string, string>> = {
  [ovmfCode]: 'ovmf',
  [ovmfVariables]: 'ovmf',
  [uboot]: 'u-boot-qemu',
  [ubootArm64]: 'u-boot-qemu',
  '/usr/lib/ipxe/qemu/pxe-virtio.rom': 'ipxe-qemu',
}

export class Machine {
  readonly mac: Mac
  readonly screen: Screen
  readonly #qemu: Child
  readonly #poweredOnAtMs: number
  readonly #cleanUp: () => Promise<void>
  #off: Promise<void> | undefined

  private constructor(mac: Mac, qemu: Child, cleanUp: () => Promise<void>) {
    this.mac = mac
    this.screen = new Screen()
    this.#qemu = qemu
    this.#poweredOnAtMs = performance.now()
    this.#cleanUp = cleanUp
    qemu.output.on('data', (chunk: Buffer) => this.screen.feed(chunk, this.upMs()))
    void qemu.exited.then(() => {
      const words = qemu.errorText
      this.screen.close(words === '' ? 'the machine is off' : `QEMU ended: ${words}`, this.upMs())
    })
  }

  /** Switches a machine on. @throws {OperationError} firmwareMissing */
  static async powerOn(options: MachineOptions): Promise<Machine> {
    const mac = options.mac ?? '52:54:00:77:00:10'
    const folder = await mkdtemp(join(tmpdir(), 'slipway-machine-'))
    const redirector = new FrameRedirector()
    const taps = [await options.network.addTap()]
    const cleanUp = async (): Promise<void> => {
      redirector.close()
      await rm(folder, { recursive: true, force: true })
      for (const tap of taps) await options.network.removeTap(tap)
    }
    try {
      const firmware = await firmwareArguments(options.firmware, folder, mac)
      const plainPxe = new PlainPxe()
      const filter =
        options.firmware === 'bios-pxe'
          ? await redirector.listen(folder, 'n0', 'rx', (frame) => plainPxe.rewrite(frame))
          : []
      const emulator = options.firmware === 'uboot-arm64' ? 'qemu-system-aarch64' : 'qemu-system-x86_64'
      if (options.storageVlan !== undefined) taps.push(await options.network.addTap(lab.storageName))
      const command = [
        emulator,
        ...['-accel', 'tcg', '-m', String(options.memoryMebibytes ?? 512)],
        ...['-nodefaults', '-vga', 'none', '-display', 'none'],
        ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
        ...(await cables(options, taps, folder, redirector)),
        ...firmware,
        ...enrolled(options),
        ...diskArguments(options),
        ...filter,
        ...smbios(options),
        ...(options.clock === undefined ? [] : ['-rtc', `base=${options.clock}`]),
      ]
      return new Machine(mac, options.network.start(command, { name: emulator }), cleanUp)
    } catch (error) {
      await cleanUp()
      throw error
    }
  }

  /** Milliseconds since power-on. */
  upMs(): number {
    return performance.now() - this.#poweredOnAtMs
  }

  get isOn(): boolean {
    return this.#qemu.running
  }

  /** The first match on the screen after the one before it. @throws {OperationError} notSeen */
  waitFor(pattern: RegExp | string, timeoutMs: number): Promise<Seen> {
    return this.screen.waitFor(pattern, timeoutMs)
  }

  /** Keys on the serial console. */
  type(text: string): void {
    this.#qemu.write(text)
  }

  /** Until it has switched itself off. @throws {OperationError} stillOn */
  async waitUntilOff(timeoutMs: number): Promise<void> {
    const timer = new AbortController()
    const late = delay(timeoutMs, 'late', { signal: timer.signal }).catch(() => 'off')
    const first = await Promise.race([this.#qemu.exited.then(() => 'off'), late])
    timer.abort()
    if (first === 'off') return await this.powerOff()
    const words = `The machine is still on after ${timeoutMs / 1000} s. Its last lines:\n${this.screen.tail()}`
    throw new OperationError('stillOn', words, 'Look at the lines above: the last one says what it waits for.')
  }

  /** Pulls the plug, once; the network card is gone when it resolves. */
  powerOff(): Promise<void> {
    this.#off ??= this.#qemu.stop('SIGKILL').then(this.#cleanUp)
    return this.#off
  }
}

/** What its network card n0 is plugged into. */
async function cables(
  { storageVlan }: MachineOptions,
  [boot = '', storage = '']: readonly string[],
  folder: string,
  redirector: FrameRedirector,
): Promise<string[]> {
  // vnet_hdr=off: a filter would see offload headers before the frames.
  const tap = (id: string, name: string): string => `tap,id=${id},ifname=${name},script=no,downscript=no,vnet_hdr=off`
  if (storageVlan === undefined) return ['-netdev', tap('n0', boot)]
  const hubPort = (id: string, netdev: string): string[] => ['-netdev', `hubport,id=${id},hubid=0${netdev}`]
  return [
    ...hubPort('n0', ''),
    ...['-netdev', tap('boot', boot), ...hubPort('to-boot', ',netdev=boot')],
    ...['-netdev', tap('storage', storage), ...hubPort('to-storage', ',netdev=storage')],
    ...(await redirector.listen(folder, 'storage', 'rx', (frame) => untagged(frame, storageVlan))),
    ...(await redirector.listen(folder, 'storage', 'tx', (frame) => tagged(frame, storageVlan))),
  ]
}

async function firmwareArguments(firmware: Firmware, folder: string, mac: Mac): Promise<string[]> {
  switch (firmware) {
    case 'bios-ipxe-rom':
    case 'bios-pxe':
      await needFile('/usr/lib/ipxe/qemu/pxe-virtio.rom')
      return ['-machine', 'pc,graphics=off', '-device', `virtio-net-pci,netdev=n0,mac=${mac}`]
    case 'uefi':
    case 'uefi-http': {
      await needFile(ovmfCode)
      await needFile(ovmfVariables)
      // OVMF writes its boot entries there: each machine has its own copy.
      const variables = join(folder, 'variables.fd')
      await copyFile(ovmfVariables, variables)
      return [
        ...['-machine', 'q35,graphics=off'],
        ...['-drive', `if=pflash,format=raw,unit=0,readonly=on,file=${ovmfCode}`],
        ...['-drive', `if=pflash,format=raw,unit=1,file=${variables}`],
        // Without the card's ROM, which is iPXE again: OVMF has a driver and PXE of its own.
        ...['-device', `virtio-net-pci,netdev=n0,mac=${mac},romfile=,bootindex=1`],
        // PXE comes first, and would be answered.
        ...(firmware === 'uefi-http' ? [...withoutPxe(4), ...withoutPxe(6)] : []),
      ]
    }
    case 'uboot-x86':
      await needFile(uboot)
      // e1000e: U-Boot 2023.01's virtio-net stops receiving after a burst. Not in slot 1, where it would be without a
      // graphics card: U-Boot's device tree (of the i440FX, for every machine) says that a bridge is there.
      return ['-machine', 'q35', '-bios', uboot, '-device', `e1000e,netdev=n0,mac=${mac},romfile=,addr=0x4`]
    case 'uboot-arm64':
      await needFile(ubootArm64)
      return [
        ...['-machine', 'virt', '-cpu', 'cortex-a57', '-bios', ubootArm64],
        ...['-device', `e1000e,netdev=n0,mac=${mac},romfile=`],
      ]
  }
}

/** OvmfPkg/PlatformPei reads it: yes or no. */
function withoutPxe(version: 4 | 6): string[] {
  return ['-fw_cfg', `name=opt/org.tianocore/IPv${version}PXESupport,string=no`]
}

/** OvmfPkg/Library/TlsAuthConfigLib: EFI signature lists, one after the other. */
function enrolled({ enrolledAuthorities }: MachineOptions): string[] {
  if (enrolledAuthorities === undefined) return []
  return ['-fw_cfg', `name=etc/edk2/https/cacerts,file=${enrolledAuthorities}`]
}

function diskArguments({ disk }: MachineOptions): string[] {
  if (disk === undefined) return []
  // A comma would end the option: QEMU reads two as one.
  const drive = `if=none,id=d0,format=${disk.format},file=${disk.file.replaceAll(',', ',,')}`
  return ['-drive', drive, '-device', 'virtio-blk-pci,drive=d0,bootindex=0']
}

function smbios(options: MachineOptions): string[] {
  const fields = [
    ...(options.uuid === undefined ? [] : [`uuid=${options.uuid}`]),
    ...(options.serialNumber === undefined ? [] : [`serial=${options.serialNumber}`]),
  ]
  return fields.length === 0 ? [] : ['-smbios', `type=1,${fields.join(',')}`]
}

async function needFile(path: string): Promise<void> {
  try {
    await access(path)
  } catch (error) {
    const name = packageOf[path] ?? ''
    throw new OperationError(
      'firmwareMissing',
      `${path} is not there.`,
      `As root: apt-get install --no-install-recommends ${name}`,
      { cause: error },
    )
  }
}
