/**
 * Who will touch the network card after the kernel has started. The root disk hangs on the address that the initramfs
 * set up: whoever takes that away, if only for a moment, takes the disk away.
 */
import { error, type ImageFinding, ok, warning } from './finding.ts'
import { exists, isEnabled, type Root, readFolder, readText, settingLines } from './root.ts'

const why = 'It sets the card up again while the root disk is used over it: the disk is gone, and the system with it.'

export async function checkNetwork(root: Root): Promise<ImageFinding[]> {
  const findings = [
    ...(await checkNetworkManager(root)),
    ...(await checkNetworkd(root)),
    ...(await checkNetplan(root)),
    ...(await checkIfupdown(root)),
    ...(await checkCloudInit(root)),
  ]
  return findings.length > 0 ? findings : [ok('network', 'nothing sets up the network card again')]
}

async function checkNetworkManager(root: Root): Promise<ImageFinding[]> {
  if (!(await isEnabled(root, 'NetworkManager.service'))) return []
  const folders = ['/etc/NetworkManager/conf.d', '/usr/lib/NetworkManager/conf.d']
  const texts = [await readText(root, '/etc/NetworkManager/NetworkManager.conf')]
  for (const folder of folders) texts.push(...(await readFolder(root, folder, '.conf')).map(([, text]) => text))
  const lines = texts.flatMap((text) => settingLines(text ?? ''))
  // Any of these is somebody's decision about cards; which card it will be is not known here.
  const isKept = lines.some((line) => /^(unmanaged-devices\s*=|keep-configuration\s*=\s*(yes|true|1))/i.test(line))
  if (isKept) return [ok('network.networkManager', 'NetworkManager leaves cards alone that it was told to')]
  const path = '/etc/NetworkManager/conf.d/10-iscsi-root.conf'
  const content =
    '# The root disk is reached over this card: it stays as the initramfs set it up.\n[keyfile]\nunmanaged-devices=type:ethernet\n'
  return [
    {
      ...warning(
        'network.networkManager',
        'NetworkManager is started',
        why,
        `Write ${path}: [keyfile] unmanaged-devices=type:ethernet`,
      ),
      repairs: [{ kind: 'edit', partition: root.partition, path, edit: () => content }],
    },
  ]
}

async function checkNetworkd(root: Root): Promise<ImageFinding[]> {
  if (!(await isEnabled(root, 'systemd-networkd.service', ['multi-user', 'network-online', 'sysinit']))) return []
  const files = await readFolder(root, '/etc/systemd/network', '.network')
  const findings: ImageFinding[] = []
  for (const [path, text] of files) {
    const lines = settingLines(text)
    const configures = lines.some((line) => /^(DHCP\s*=\s*(yes|true|ipv4|both|1)|Address\s*=)/i.test(line))
    const keeps = lines.some((line) => /^KeepConfiguration\s*=\s*(yes|true|1|dhcp|static)/i.test(line))
    if (!configures) continue
    if (keeps) {
      findings.push(ok('network.networkd', `${path} keeps what is set up`))
      continue
    }
    const edit = (before: string): string => addUnder(before, '[Network]', 'KeepConfiguration=yes')
    findings.push({
      ...warning(
        'network.networkd',
        `${path} sets up a card`,
        why,
        `Add KeepConfiguration=yes under [Network] in ${path}.`,
      ),
      repairs: [{ kind: 'edit', partition: root.partition, path, edit }],
    })
  }
  return findings
}

/** netplan(5): it writes configuration for networkd or NetworkManager at each start, from YAML of which later files win. */
async function checkNetplan(root: Root): Promise<ImageFinding[]> {
  const found = new Map<string, boolean>()
  for (const folder of ['/usr/lib/netplan', '/lib/netplan', '/etc/netplan']) {
    for (const [, text] of await readFolder(root, folder, '.yaml')) {
      for (const [name, isCritical] of netplanCards(text)) found.set(name, isCritical || found.get(name) === true)
    }
  }
  const names = [...found].filter(([, isCritical]) => !isCritical).map(([name]) => name)
  if (found.size === 0) return []
  if (names.length === 0) return [ok('network.netplan', 'netplan keeps what is set up')]
  const path = '/etc/netplan/99-iscsi-root.yaml'
  const cards = names.map((name) => `    ${name}:\n      critical: true\n`).join('')
  const content = `# The root disk is reached over it: it stays as the initramfs set it up.\nnetwork:\n  version: 2\n  ethernets:\n${cards}`
  const next = `Write ${path}: network: ethernets: ${names[0]}: critical: true`
  return [
    {
      ...warning('network.netplan', `netplan sets up ${names.join(', ')}`, why, next),
      repairs: [{ kind: 'edit', partition: root.partition, path, edit: () => content }],
    },
  ]
}

/** What stands under `ethernets:`, in the form that people and installers write: a line each, told apart by indentation. */
function netplanCards(text: string): Map<string, boolean> {
  const cards = new Map<string, boolean>()
  let section: number | undefined
  let card: { readonly name: string; readonly indent: number } | undefined
  for (const line of text.split('\n')) {
    if (line.trim() === '' || line.trim().startsWith('#')) continue
    const indent = line.length - line.trimStart().length
    if (section !== undefined && indent <= section) {
      section = undefined
      card = undefined
    }
    if (/^\s*ethernets:\s*$/.test(line)) section = indent
    else if (section !== undefined && (card === undefined || indent <= card.indent)) {
      const name = /^\s*(["']?[\w.:-]+["']?):\s*(?:\{.*\})?$/.exec(line)?.[1]
      card = name === undefined ? undefined : { name, indent }
      if (name !== undefined) cards.set(name, /critical:\s*(true|yes)/.test(line))
    } else if (card !== undefined && /^\s*critical:\s*(true|yes)\s*$/.test(line)) cards.set(card.name, true)
  }
  return cards
}

/** `line` directly under `section`; the section is made where it is missing. */
function addUnder(text: string, section: string, line: string): string {
  const lines = text.split('\n')
  const at = lines.findIndex((each) => each.trim() === section)
  if (at === -1) return `${text.trimEnd()}\n\n${section}\n${line}\n`
  return [...lines.slice(0, at + 1), line, ...lines.slice(at + 1)].join('\n')
}

/**
 * interfaces(5): a stanza 'iface NAME inet METHOD', started by 'auto NAME' or 'allow-hotplug NAME'. Any stanza counts, manual
 * too: open-iscsi tells ifupdown that the root's card is up, and when the system stops, `ifdown -a` takes it down by its
 * stanza, before the root is unmounted.
 */
async function checkIfupdown(root: Root): Promise<ImageFinding[]> {
  const hasTool = (await exists(root, '/sbin/ifup')) || (await exists(root, '/usr/sbin/ifup'))
  if (!hasTool) return []
  const main = await readText(root, '/etc/network/interfaces')
  const files: (readonly [string, string])[] = main === undefined ? [] : [['/etc/network/interfaces', main]]
  files.push(...(await readFolder(root, '/etc/network/interfaces.d', '')))
  const started = namesBehind(files, /^(?:auto|allow-hotplug|allow-auto)\s+(.*)$/)
  const kept = namesBehind(files, /^no-auto-down\s+(.*)$/)
  const findings: ImageFinding[] = []
  for (const [path, text] of files) {
    for (const line of settingLines(text)) {
      const [, name = '', method = ''] = /^iface\s+(\S+)\s+inet\s+(\S+)/.exec(line) ?? []
      const isSetUp = started.has(name) && method !== 'manual'
      if (name === '' || name === 'lo' || (kept.has(name) && !isSetUp)) continue
      const next = `Take ${name} out of ${path}: its stanza and its name behind auto and allow-hotplug.`
      const found = isSetUp
        ? error('network.ifupdown', `${path} sets up ${name} (${method})`, why, next)
        : warning('network.ifupdown', `${path} knows ${name} (${method})`, whyAtStop, next)
      const edit = (before: string): string => withoutInterface(before, name)
      findings.push({ ...found, repairs: [{ kind: 'edit', partition: root.partition, path, edit }] })
    }
  }
  return findings
}

const whyAtStop = 'When the system stops, ifdown takes the card away before the root is unmounted: it hangs.'

function namesBehind(files: readonly (readonly [string, string])[], line: RegExp): Set<string> {
  const lines = files.flatMap(([, text]) => settingLines(text))
  return new Set(lines.flatMap((each) => line.exec(each)?.[1]?.split(/\s+/) ?? []))
}

/** Its stanzas become comments, up to the next word that begins one; its name goes from the lines that start interfaces. */
function withoutInterface(text: string, name: string): string {
  const begins = /^\s*(iface|mapping|auto|allow-\S+|no-auto-down|no-scripts|source|source-directory|rename|template)\s/
  let isInside = false
  return text
    .split('\n')
    .flatMap((line) => {
      const words = line.trim().split(/\s+/)
      if (begins.test(line)) isInside = words[0] === 'iface' && words[1] === name
      if (isInside && line.trim() !== '' && !line.trim().startsWith('#')) return [`#${line}`]
      if (!/^(auto|allow-\S+)$/.test(words[0] ?? '') || !words.includes(name)) return [line]
      const left = words.filter((word) => word !== name)
      return left.length > 1 ? [left.join(' ')] : [`#${line}`]
    })
    .join('\n')
}

async function checkCloudInit(root: Root): Promise<ImageFinding[]> {
  if (!(await exists(root, '/etc/cloud/cloud.cfg'))) return []
  if (await exists(root, '/etc/cloud/cloud-init.disabled')) return []
  const texts = [await readText(root, '/etc/cloud/cloud.cfg')]
  texts.push(...(await readFolder(root, '/etc/cloud/cloud.cfg.d', '.cfg')).map(([, text]) => text))
  const isOff = texts.some((text) =>
    /^network:\s*(?:\{\s*config:\s*disabled\s*\}|\n\s+config:\s*disabled)/m.test(text ?? ''),
  )
  if (isOff) return [ok('network.cloudInit', 'cloud-init leaves the network alone')]
  const path = '/etc/cloud/cloud.cfg.d/99-iscsi-root.cfg'
  const content =
    '# The root disk is reached over the network that the initramfs set up.\nnetwork: {config: disabled}\n'
  return [
    {
      ...warning(
        'network.cloudInit',
        'cloud-init writes the network configuration',
        why,
        `Write ${path}: network: {config: disabled}`,
      ),
      repairs: [{ kind: 'edit', partition: root.partition, path, edit: () => content }],
    },
  ]
}
