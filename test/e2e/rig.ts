/** What every end-to-end test begins with and must not leave behind: a network, a server, machines. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished } from 'vitest'
import { type GoldenImage, type GoldenVariant, goldenImage, sha256OfFile } from '../../lab/golden-image.ts'
import { Machine, type MachineOptions } from '../../lab/machine.ts'
import { LabNetwork } from '../../lab/namespace.ts'
import { startDnsmasq } from '../../lab/peers/dnsmasq.ts'
import { type SlipwayOptions, SlipwayServer } from '../../lab/slipway.ts'

/** Twice what the slowest of them takes on two busy cores. */
export const bootWithinMs = 90_000

export type Rig = {
  readonly network: LabNetwork
  readonly golden: GoldenImage
  readonly server: SlipwayServer
  powerOn(options: Omit<MachineOptions, 'network'>): Promise<Machine>
}

export type RigOptions = Pick<SlipwayOptions, 'dhcp' | 'admit' | 'chap' | 'config' | 'before' | 'logPath'> & {
  readonly variant?: GoldenVariant
  /** Of the network, before Slipway starts. */
  readonly prepare?: (network: LabNetwork) => Promise<unknown>
}

/**
 * Slipway serving the golden image. With `dhcp: 'proxy'` a dnsmasq hands out the addresses and says nothing of booting.
 * When the test ends, however it ends: everything stops, Slipway exits 0, and the golden image is what it was.
 */
export async function rig(options: RigOptions): Promise<Rig> {
  const golden = await goldenImage(options.variant ?? 'tiny')
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  await options.prepare?.(network)
  if (options.dhcp === 'proxy') {
    const folder = await mkdtemp(join(tmpdir(), 'slipway-dnsmasq-'))
    const dnsmasq = await startDnsmasq(network, folder, { kind: 'addressesOnly' })
    onTestFinished(async () => {
      await dnsmasq.stop()
      await rm(folder, { recursive: true, force: true })
    })
  }
  const server = await SlipwayServer.start({ network, imagePath: golden.path, ...options })
  onTestFinished(async () => {
    expect(await server.stop(), 'Ctrl-C ends Slipway with exit code 0').toEqual({ code: 0, signal: null })
    expect(await sha256OfFile(golden.path), 'the golden image').toBe(golden.sha256)
  })
  const powerOn = async (machineOptions: Omit<MachineOptions, 'network'>): Promise<Machine> => {
    const machine = await Machine.powerOn({ network, ...machineOptions })
    onTestFinished(() => machine.powerOff())
    return machine
  }
  return { network, golden, server, powerOn }
}
