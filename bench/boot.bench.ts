/**
 * How long does a diskless machine take from power-on to Linux, beside what one would set up by hand? The same machine, the
 * same image; the figure is read off the machine's own screen. No wait may be of the server's making: the firmware's
 * own, seen with either server, are 2 s for Ctrl-B and what OVMF needs for itself.
 */
import { spawnSync } from 'node:child_process'
import { goldenImage, machineSays } from '../lab/golden-image.ts'
import { type Firmware, Machine } from '../lab/machine.ts'
import { LabNetwork } from '../lab/namespace.ts'
import { ClassicServer } from '../lab/peers/classic.ts'
import { SlipwayServer } from '../lab/slipway.ts'
import { type Contender, moveToClientCore, type Question, serverCore, unlessInstalled } from './frame.ts'

const bootWithinMs = 120_000

type Server = { readonly stop: () => Promise<unknown> }

function contender(
  name: string,
  firmware: Firmware,
  serve: (network: LabNetwork, imagePath: string) => Promise<Server>,
): Contender {
  const start: Contender['start'] = async () => {
    const { path } = await goldenImage('tiny')
    const network = await LabNetwork.create()
    // Children have their parent's core: the server starts on its own, the machine on the other.
    spawnSync('taskset', ['-a', '-c', '-p', String(serverCore), String(process.pid)])
    const server = await serve(network, path).finally(moveToClientCore)
    const stop = async (): Promise<void> => {
      await server.stop()
      await network.close()
    }
    return { measure: () => secondsToLinux(network, firmware), stop }
  }
  return { name, start }
}

async function secondsToLinux(network: LabNetwork, firmware: Firmware): Promise<number> {
  const machine = await Machine.powerOn({ network, firmware })
  try {
    return (await machine.waitFor(machineSays.ready, bootWithinMs)).atMs / 1000
  } finally {
    await machine.powerOff()
  }
}

const classicMissing = (): string | undefined =>
  unlessInstalled('tgt', '/usr/sbin/tgtd')() ??
  unlessInstalled('nginx-light', '/usr/sbin/nginx')() ??
  unlessInstalled('dnsmasq-base', '/usr/sbin/dnsmasq')()

function question(name: string, firmware: Firmware, goal: number): Question {
  const slipway = contender('slipway', firmware, (network, imagePath) =>
    SlipwayServer.start({ network, imagePath, dhcp: 'own', admit: 'all', chap: 'none' }),
  )
  const classic = contender('dnsmasq+nginx+tgt', firmware, (network, imagePath) =>
    ClassicServer.start(network, imagePath),
  )
  return {
    name,
    unit: 's',
    better: 'lower',
    goal,
    ours: slipway,
    peers: [{ ...classic, missing: classicMissing }],
  }
}

export const questions: readonly Question[] = [
  question('boot: BIOS with iPXE ROM, power-on to Linux', 'bios-ipxe-rom', 2.2),
  question('boot: UEFI PXE, power-on to Linux', 'uefi', 1.5),
]
