/** What one sets up by hand for a diskless machine: dnsmasq for DHCP and TFTP, nginx for iPXE's script, tgt for the disk. */
import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Child } from '../child.ts'
import { type LabNetwork, lab } from '../namespace.ts'
import { startDnsmasq } from './dnsmasq.ts'
import { startNginx } from './nginx.ts'
import { startTgt } from './tgt.ts'

const targetName = 'iqn.2026-01.lab.classic:golden'
const loaders = ['undionly.kpxe', 'snponly.efi']
const loadersFolder = '/usr/lib/ipxe'

export class ClassicServer {
  readonly #folder: string
  readonly #children: Child[] = []

  private constructor(folder: string) {
    this.#folder = folder
  }

  /** Serves a copy of the image, read-write: tgt has no clones. Ready when it returns. */
  static async start(network: LabNetwork, imagePath: string): Promise<ClassicServer> {
    const folder = await mkdtemp(join(tmpdir(), 'slipway-classic-'))
    const server = new ClassicServer(folder)
    try {
      const [tftp, http, disk] = [join(folder, 'tftp'), join(folder, 'http'), join(folder, 'disk.img')]
      await mkdir(tftp)
      await mkdir(http)
      await copyFile(imagePath, disk)
      for (const loader of loaders) await copyFile(join(loadersFolder, loader), join(tftp, loader))
      // LUN 0 is tgt's controller, the disk is LUN 1.
      const script = `#!ipxe\nset initiator-iqn iqn.2026-01.lab.classic:machine\nsanboot iscsi:${lab.serverAddress}:::1:${targetName}\n`
      await writeFile(join(http, 'boot.ipxe'), script)
      const scriptUrl = `http://${lab.serverAddress}/boot.ipxe`
      server.#children.push(await startTgt(network, folder, { targetName, imagePath: disk }))
      server.#children.push(await startNginx(network, folder, http))
      server.#children.push(await startDnsmasq(network, folder, { kind: 'everything', tftpFolder: tftp, scriptUrl }))
      return server
    } catch (error) {
      await server.stop()
      throw error
    }
  }

  async stop(): Promise<void> {
    // tgtd ignores SIGTERM while it has targets.
    for (const child of this.#children) await child.stop('SIGKILL')
    await rm(this.#folder, { recursive: true, force: true })
  }
}
