/** dnsmasq as a network's own DHCP server, or as the whole of a PXE set-up, which is what Slipway is compared with. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Child } from '../child.ts'
import { type LabNetwork, lab } from '../namespace.ts'

export type DnsmasqRole =
  /** Hands out addresses and says nothing of booting: the network that a proxyDHCP joins. */
  | { readonly kind: 'addressesOnly' }
  /** Addresses, and the script's URL for an iPXE that was started from a disk of its own. */
  | { readonly kind: 'namesScript'; readonly scriptUrl: string }
  /** Addresses, loaders by TFTP, and the script's URL for iPXE. */
  | { readonly kind: 'everything'; readonly tftpFolder: string; readonly scriptUrl: string }

/** Ready when it returns. */
export async function startDnsmasq(network: LabNetwork, folder: string, role: DnsmasqRole): Promise<Child> {
  const configFile = join(folder, 'dnsmasq.conf')
  const lines = [
    'keep-in-foreground',
    'log-facility=-',
    'log-dhcp',
    'conf-file=/dev/null',
    'user=root',
    'port=0', // no DNS
    'bind-interfaces',
    'pid-file',
    `interface=${lab.interfaceName}`,
    `dhcp-leasefile=${join(folder, 'dnsmasq.leases')}`,
    `dhcp-range=${lab.firstLease},${lab.lastLease},${lab.netmask},1h`,
    'dhcp-authoritative',
    ...bootLines(role),
  ]
  await writeFile(configFile, `${lines.join('\n')}\n`)
  const child = network.start(['dnsmasq', `--conf-file=${configFile}`], { name: 'dnsmasq' })
  await ready(child, /DHCP, sockets bound|DHCP, IP range/)
  return child
}

function bootLines(role: DnsmasqRole): string[] {
  if (role.kind === 'addressesOnly') return []
  const script = ['dhcp-userclass=set:ipxe,iPXE', `dhcp-boot=tag:ipxe,${role.scriptUrl}`]
  if (role.kind === 'namesScript') return script
  return [
    'enable-tftp',
    `tftp-root=${role.tftpFolder}`,
    ...script,
    'dhcp-match=set:efi,option:client-arch,7',
    'dhcp-boot=tag:!ipxe,tag:efi,snponly.efi',
    'dhcp-boot=tag:!ipxe,tag:!efi,undionly.kpxe',
  ]
}

/** dnsmasq says on standard error that it has bound its sockets. */
async function ready(child: Child, words: RegExp): Promise<void> {
  child.discardOutput()
  const deadline = Date.now() + 5000
  while (!words.test(child.errorText)) {
    if (!child.running || Date.now() > deadline) throw new Error(`dnsmasq did not start: ${child.errorText}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
