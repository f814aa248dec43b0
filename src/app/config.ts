/**
 * What a user may say: `slipway.toml`, and the command line over it. Everything has a default but the image.
 *
 *   image = "golden.img"
 *   state = "/var/lib/slipway"
 *   interface = "eth0"
 *   admit = "ask"                     # ask | all | none
 *   transport = "auto"                # strict | auto | open: may a script, which holds secrets, travel without TLS
 *   require = "admission"             # certificate | login | admission: what a machine must prove before it gets secrets
 *   loaders = "/usr/lib/ipxe"
 *   cache = "512MiB"                  # memory for blocks of golden images, all clones together
 *   server-name = "boot.lab"          # in our certificates beside the address; in https:// URLs where a certificate lacks it
 *
 *   [dhcp]
 *   mode = "proxy"                    # proxy | server | off
 *   range = "192.168.77.100-192.168.77.199"
 *   router = "192.168.77.1"
 *   dns = ["192.168.77.1"]
 *   lease-seconds = 3600
 *
 *   [iscsi]
 *   chap = "mutual"                   # mutual | one-way | none
 *
 *   [clones]
 *   policy = "persistent"             # persistent | ephemeral (a fresh one at each boot) | read-only
 *
 *   [images."debian-12"]              # of the library
 *   policy = "ephemeral"              # holds over what `slipway image policy` said, and [machine] over this
 *   start = "kernel"                  # disk | kernel: its boot loader starts it, or its kernel is loaded at once (U-Boot)
 *
 *   [https]
 *   compat = ["ipxe-2019", "ovmf"]    # weaker cipher suites, for loaders that have no others
 *   uefi = true                       # UEFI's own HTTP boot by HTTPS: our CA is enrolled there (default: where transport is strict)
 *   certificate = "boot.pem"          # of your own, with its chain, instead of those that our CA makes
 *   key = "boot.key"
 *
 *   [network.storage]
 *   vlan = 2                          # iSCSI on a VLAN of its own; the target listens nowhere else
 *   interface = "eth0.2"              # where it is on this computer (default: the interface, a dot, the VLAN)
 *   range = "10.77.2.100-10.77.2.199" # which addresses the machines have there
 *
 *   [ports]
 *   dhcp = 67
 *   pxe = 4011
 *   tftp = 69
 *   http = 80
 *   https = 443
 *   proof = 8443                      # HTTPS that asks for a machine's certificate
 *   iscsi = 3260
 *
 *   [machine."52:54:00:12:34:56"]     # known before it is first seen
 *   name = "bench-3"
 *   image = "debian-12"               # of the library; debian-12@3 holds it at that version
 *   policy = "ephemeral"
 *   start = "kernel"                  # holds over the image's
 *   admit = true                      # also after `slipway refuse`; left out: admitted unless it was refused
 *   uefi-https = true                 # as [https] uefi, for this machine
 *   transport = "strict"
 *   require = "certificate"
 */
import { parse, TomlError } from 'smol-toml'
import { z } from 'zod'
import { formatIpv4, parseIpv4, parseMac } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import { mebibyte, parseBytes } from '../base/units.ts'
import type { ClonePolicy, TransportPolicy } from '../fleet/machine.ts'
import type { ProofKind } from '../fleet/proof.ts'
import { type ImageReference, isImageName, parseReference } from '../images/catalogue.ts'
import { isHostName } from '../trust/authority.ts'
import type { Compat } from '../trust/suites.ts'

const port = z.int().min(1).max(65_535)
const ipv4 = z.string().refine((text) => parseIpv4(text) !== undefined, 'is not an IPv4 address such as 192.168.77.1')
const range = z.string().transform((text, context) => {
  const parsed = parseRange(text)
  if (parsed !== undefined) return parsed
  context.addIssue({ code: 'custom', message: 'is not a range such as 192.168.77.100-192.168.77.199' })
  return z.NEVER
})
const mac = z.string().transform((text, context) => {
  const parsed = parseMac(text)
  if (parsed !== undefined) return parsed
  context.addIssue({ code: 'custom', message: 'is not a MAC address such as 52:54:00:12:34:56' })
  return z.NEVER
})

const size = z.string().transform((text, context) => {
  const parsed = parseBytes(text)
  if (parsed !== undefined) return parsed
  context.addIssue({ code: 'custom', message: 'is not a size such as 512MiB' })
  return z.NEVER
})
const policy = z
  .enum(['persistent', 'ephemeral', 'read-only'])
  .transform((word): ClonePolicy => (word === 'read-only' ? 'readOnly' : word))
const imageReference = z.string().transform((text, context): ImageReference => {
  const parsed = parseReference(text)
  if (parsed !== undefined) return parsed
  context.addIssue({ code: 'custom', message: 'is not the name of an image such as debian-12 or debian-12@3' })
  return z.NEVER
})

const imageName = z.string().refine(isImageName, 'is not the name of an image such as debian-12')
/** Linux's IFNAMSIZ is 16 with its NUL. */
const interfaceName = z.string().min(1).max(15)

const transport = z.enum(['strict', 'auto', 'open'])
const proof = z.enum(['certificate', 'login', 'admission'])

const start = z.enum(['disk', 'kernel'])

const schema = z.strictObject({
  image: z.string().min(1).optional(),
  state: z.string().min(1).optional(),
  interface: interfaceName.optional(),
  admit: z.enum(['ask', 'all', 'none']).optional(),
  transport: transport.optional(),
  require: proof.optional(),
  loaders: z.string().min(1).optional(),
  'server-name': z.string().refine(isHostName, 'is not a host name').optional(),
  dhcp: z
    .strictObject({
      mode: z.enum(['proxy', 'server', 'off']).optional(),
      range: range.optional(),
      router: ipv4.optional(),
      dns: z.array(ipv4).max(8).optional(),
      'lease-seconds': z.int().min(60).max(31_536_000).optional(),
    })
    .optional(),
  cache: size.optional(),
  clones: z.strictObject({ policy: policy.optional() }).optional(),
  images: z.record(imageName, z.strictObject({ policy: policy.optional(), start: start.optional() })).optional(),
  iscsi: z.strictObject({ chap: z.enum(['mutual', 'one-way', 'none']).optional() }).optional(),
  https: z
    .strictObject({
      compat: z.array(z.enum(['ipxe-2019', 'ovmf'])).optional(),
      uefi: z.boolean().optional(),
      certificate: z.string().min(1).optional(),
      key: z.string().min(1).optional(),
    })
    .optional(),
  network: z
    .strictObject({
      // IEEE 802.1Q §9.6: 0 means no VLAN, 4095 is reserved.
      storage: z
        .strictObject({ vlan: z.int().min(1).max(4094), interface: interfaceName.optional(), range })
        .optional(),
    })
    .optional(),
  ports: z
    .strictObject({
      dhcp: port.optional(),
      pxe: port.optional(),
      tftp: port.optional(),
      http: port.optional(),
      https: port.optional(),
      proof: port.optional(),
      iscsi: port.optional(),
    })
    .optional(),
  machine: z
    .record(
      mac,
      z.strictObject({
        name: z
          .string()
          .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i, 'is not a host name')
          .optional(),
        admit: z.boolean().optional(),
        image: imageReference.optional(),
        policy: policy.optional(),
        start: start.optional(),
        'uefi-https': z.boolean().optional(),
        transport: transport.optional(),
        require: proof.optional(),
      }),
    )
    .optional(),
})

/** The file as written; what is missing is undefined. */
export type ConfigFile = {
  image?: string | undefined
  state?: string | undefined
  interface?: string | undefined
  admit?: AdmitMode | undefined
  transport?: TransportPolicy | undefined
  require?: ProofKind | undefined
  loaders?: string | undefined
  'server-name'?: string | undefined
  dhcp?:
    | {
        mode?: DhcpMode | undefined
        range?: AddressRange | undefined
        router?: string | undefined
        dns?: string[] | undefined
        'lease-seconds'?: number | undefined
      }
    | undefined
  cache?: number | undefined
  clones?: { policy?: ClonePolicy | undefined } | undefined
  images?: Record<string, { policy?: ClonePolicy | undefined; start?: Start | undefined }> | undefined
  iscsi?: { chap?: ChapMode | undefined } | undefined
  https?:
    | {
        compat?: Compat[] | undefined
        uefi?: boolean | undefined
        certificate?: string | undefined
        key?: string | undefined
      }
    | undefined
  network?: { storage?: { vlan: number; interface?: string | undefined; range: AddressRange } | undefined } | undefined
  ports?: { [K in keyof Ports]?: number | undefined } | undefined
  machine?:
    | Record<
        string,
        {
          name?: string | undefined
          admit?: boolean | undefined
          image?: ImageReference | undefined
          policy?: ClonePolicy | undefined
          start?: Start | undefined
          'uefi-https'?: boolean | undefined
          transport?: TransportPolicy | undefined
          require?: ProofKind | undefined
        }
      >
    | undefined
}

export type AddressRange = { readonly first: number; readonly last: number }

export type DhcpMode = 'proxy' | 'server' | 'off'
export type AdmitMode = 'ask' | 'all' | 'none'
/** disk: what a firmware finds on it, its boot loader. kernel: its kernel is loaded without that, and told where its root is. */
export type Start = 'disk' | 'kernel'
export type ChapMode = 'mutual' | 'one-way' | 'none'

export type Ports = {
  readonly dhcp: number
  readonly pxe: number
  readonly tftp: number
  readonly http: number
  readonly https: number
  /** HTTPS that asks for the client's certificate: an iPXE of 2019 without one hangs up when it is asked. */
  readonly proof: number
  readonly iscsi: number
}

/** Everything `slipway up` needs to know, decided. */
export type UpConfig = {
  readonly imagePath: string
  readonly stateDirectory: string
  /** Undefined: the only one there is. */
  readonly interfaceName: string | undefined
  readonly admit: AdmitMode
  readonly transport: TransportPolicy
  readonly require: ProofKind
  readonly loadersDirectories: readonly string[]
  readonly serverName: string | undefined
  readonly dhcp: {
    readonly mode: DhcpMode
    readonly range: AddressRange | undefined
    readonly router: string | undefined
    readonly dns: readonly string[]
    readonly leaseSeconds: number
  }
  readonly clonePolicy: ClonePolicy
  /** Of images that have one of their own. */
  readonly imagePolicies: ReadonlyMap<string, ClonePolicy>
  /** Of images that say how they are started. */
  readonly imageStarts: ReadonlyMap<string, Start>
  /** Memory for blocks of golden images. */
  readonly cacheBytes: number
  readonly chap: ChapMode
  readonly compat: readonly Compat[]
  /** UEFI's own HTTP boot gets its loader by HTTPS. Undefined: where the machine's transport is strict. */
  readonly uefiHttps: boolean | undefined
  /** A certificate of the user's own; undefined: those that our authority makes. */
  readonly ownCertificate: OwnCertificate | undefined
  /** Undefined: iSCSI is on the network that the machines boot from. */
  readonly storage: StorageTerms | undefined
  readonly ports: Ports
  readonly machines: readonly KnownMachine[]
}

/** PEM files: the certificate with its chain, and its key. */
export type OwnCertificate = { readonly certificatePath: string; readonly keyPath: string }

/** A VLAN that carries iSCSI and nothing else. */
export type StorageTerms = {
  readonly vlan: number
  /** Undefined: the boot network's interface, a dot, the VLAN. */
  readonly interfaceName: string | undefined
  /** One address for each machine. */
  readonly range: AddressRange
}

export type KnownMachine = {
  readonly mac: string
  readonly name: string | undefined
  /** Undefined: admitted, unless a person has refused it. */
  readonly admit: boolean | undefined
  readonly image: ImageReference | undefined
  readonly clonePolicy: ClonePolicy | undefined
  readonly start: Start | undefined
  readonly uefiHttps: boolean | undefined
  readonly transport: TransportPolicy | undefined
  readonly require: ProofKind | undefined
}

/** What the command line said; it wins over the file. */
export type UpFlags = {
  readonly image?: string | undefined
  readonly state?: string | undefined
  readonly interface?: string | undefined
  readonly admit?: AdmitMode | undefined
  readonly loaders?: string | undefined
  readonly cache?: number | undefined
  /** proxy, off or FROM-TO. */
  readonly dhcp?: string | undefined
  readonly ports?: { readonly [K in keyof Ports]?: number | undefined } | undefined
}

/** IANA's numbers for each service. */
export const defaultPorts: Ports = { dhcp: 67, pxe: 4011, tftp: 69, http: 80, https: 443, proof: 8443, iscsi: 3260 }

/** Where Debian's packages ipxe, grub, syslinux and shim put what a network boot needs. */
export const debianLoadersDirectories: readonly string[] = ['/usr/lib/ipxe']

const leaseSecondsDefault = 3600
const cacheBytesDefault = 512 * mebibyte

/** @throws {OperationError} configInvalid: with the line and the key */
export function parseConfig(text: string, path: string): ConfigFile {
  let raw: unknown
  try {
    raw = parse(text)
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const what = error.message.split('\n')[0] ?? 'not TOML'
    throw invalid(`${path}:${error.line}: ${what}`, `Correct line ${error.line}, column ${error.column}.`)
  }
  checkSpellings(raw, text, path)
  const result = schema.safeParse(raw)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  const keys = (issue?.path ?? []).map(String)
  if (issue?.code === 'unrecognized_keys') keys.push(issue.keys[0] ?? '')
  const line = lineOfKey(text, keys)
  const key = keys.join('.')
  if (issue?.code === 'unrecognized_keys') {
    const known = knownKeys(keys.slice(0, -1))
    throw invalid(`${path}:${line}: there is no setting ${key}`, `Settings there: ${known.join(', ')}.`)
  }
  throw invalid(
    `${path}:${line}: ${key}: ${issue?.message ?? 'not as it should be'}`,
    `Correct ${key} in line ${line}.`,
  )
}

/** Two spellings of one MAC address are two tables to TOML: whatever the first says, `require` too, would be lost unseen. */
function checkSpellings(raw: unknown, text: string, path: string): void {
  const { machine } = raw as { machine?: unknown }
  if (typeof machine !== 'object' || machine === null) return
  const spellings = new Map<string, string>()
  for (const spelling of Object.keys(machine)) {
    const address = parseMac(spelling)
    if (address === undefined) continue
    const first = spellings.get(address)
    if (first !== undefined) {
      const line = lineOfKey(text, ['machine', spelling])
      const message = `${path}:${line}: machine."${first}" and machine."${spelling}" are one machine`
      throw invalid(message, 'Put what is said of it under one of them.')
    }
    spellings.set(address, spelling)
  }
}

/** @throws {OperationError} configInvalid, imageMissing */
export function decideUp(file: ConfigFile, flags: UpFlags, stateDefault: string): UpConfig {
  const imagePath = flags.image ?? file.image
  if (imagePath === undefined) {
    throw new OperationError('imageMissing', 'no disk image was named', 'Say which: slipway up IMAGE.')
  }
  checkProofs(file)
  checkStarts(file)
  const loaders = flags.loaders ?? file.loaders
  return {
    imagePath,
    stateDirectory: flags.state ?? file.state ?? stateDefault,
    interfaceName: flags.interface ?? file.interface,
    admit: flags.admit ?? file.admit ?? 'ask',
    transport: file.transport ?? 'auto',
    require: file.require ?? 'admission',
    loadersDirectories: loaders === undefined ? debianLoadersDirectories : [loaders],
    serverName: file['server-name'],
    dhcp: {
      ...decideDhcp(file, flags.dhcp),
      router: file.dhcp?.router,
      dns: file.dhcp?.dns ?? [],
      leaseSeconds: file.dhcp?.['lease-seconds'] ?? leaseSecondsDefault,
    },
    clonePolicy: file.clones?.policy ?? 'persistent',
    imagePolicies: new Map(
      Object.entries(file.images ?? {}).flatMap(([name, { policy: own }]) => (own === undefined ? [] : [[name, own]])),
    ),
    imageStarts: new Map(
      Object.entries(file.images ?? {}).flatMap(([name, { start: own }]) => (own === undefined ? [] : [[name, own]])),
    ),
    cacheBytes: flags.cache ?? file.cache ?? cacheBytesDefault,
    chap: file.iscsi?.chap ?? 'mutual',
    compat: file.https?.compat ?? ['ipxe-2019', 'ovmf'],
    uefiHttps: file.https?.uefi,
    ownCertificate: decideOwnCertificate(file),
    storage: decideStorage(file),
    ports: { ...defaultPorts, ...defined(file.ports ?? {}), ...defined(flags.ports ?? {}) },
    machines: Object.entries(file.machine ?? {}).map(([address, machine]) => ({
      mac: address,
      name: machine.name,
      admit: machine.admit,
      image: machine.image,
      clonePolicy: machine.policy,
      start: machine.start,
      uefiHttps: machine['uefi-https'],
      transport: machine.transport,
      require: machine.require,
    })),
  }
}

/** For a machine of which nothing is said itself. `said` is what `slipway image policy` keeps: the configuration holds over it. */
export function policyOfImage(
  { clonePolicy, imagePolicies }: Pick<UpConfig, 'clonePolicy' | 'imagePolicies'>,
  image: string,
  said: ClonePolicy | undefined,
): ClonePolicy {
  return imagePolicies.get(image) ?? said ?? clonePolicy
}

function decideOwnCertificate({ https }: ConfigFile): OwnCertificate | undefined {
  const { certificate, key } = https ?? {}
  if (certificate === undefined && key === undefined) return undefined
  if (certificate !== undefined && key !== undefined) return { certificatePath: certificate, keyPath: key }
  const [there, missing] = key === undefined ? ['certificate', 'key'] : ['key', 'certificate']
  throw invalid(
    `https.${there} is set but https.${missing} is not`,
    `Name both files under [https], or neither: without them our own authority makes the certificate.`,
  )
}

/** Whoever must prove something gets its script by TLS: nothing else carries a certificate, or a password that nobody reads. */
function checkProofs(file: ConfigFile): void {
  const all = { transport: file.transport, require: file.require }
  for (const [address, machine] of [['', all] as const, ...Object.entries(file.machine ?? {})]) {
    const require = machine.require ?? file.require ?? 'admission'
    const transport = machine.transport ?? file.transport
    if (require === 'admission') continue
    const whose = address === '' ? '' : `machine."${address}": `
    if (file.iscsi?.chap === 'none') {
      const hint =
        'Leave chap out: without it whoever knows the name of the disk has it, and nothing needs to be proved.'
      throw invalid(`${whose}require = "${require}" and [iscsi] chap = "none" contradict each other`, hint)
    }
    if (transport !== 'open') continue
    const hint = 'Leave transport out: where a proof is required it is strict.'
    throw invalid(`${whose}require = "${require}" and transport = "open" contradict each other`, hint)
  }
}

/** What joins the VLAN is iPXE, and a kernel that is started at once is not told how to. */
function checkStarts({ images, machine, network }: ConfigFile): void {
  if (network?.storage === undefined) return
  const all = [
    ...Object.entries(images ?? {}).map(([name, said]) => [`images."${name}"`, said.start] as const),
    ...Object.entries(machine ?? {}).map(([address, said]) => [`machine."${address}"`, said.start] as const),
  ]
  const [where] = all.find(([, said]) => said === 'kernel') ?? []
  if (where === undefined) return
  throw invalid(
    `${where}: start = "kernel" and [network.storage] do not go together`,
    'Leave one of them out: a kernel that is started at once does not join the VLAN of its disk.',
  )
}

/** The configuration says it of a machine, of its image, or not at all. */
export function startOf({ imageStarts, machines }: Pick<UpConfig, 'imageStarts' | 'machines'>): StartOf {
  const own = new Map(machines.map(({ mac, start: said }) => [mac, said]))
  return (mac, image) => own.get(mac) ?? imageStarts.get(image) ?? 'disk'
}

export type StartOf = (mac: string, image: string) => Start

function decideStorage({ network }: ConfigFile): StorageTerms | undefined {
  const storage = network?.storage
  return storage && { vlan: storage.vlan, interfaceName: storage.interface, range: storage.range }
}

function decideDhcp(file: ConfigFile, flag: string | undefined): { mode: DhcpMode; range: AddressRange | undefined } {
  if (flag === 'proxy' || flag === 'off') return { mode: flag, range: undefined }
  if (flag !== undefined) {
    const parsed = parseRange(flag)
    if (parsed !== undefined) return { mode: 'server', range: parsed }
    throw invalid(
      `--dhcp ${flag} is not understood`,
      'Use proxy, off, or FROM-TO such as 192.168.77.100-192.168.77.199.',
    )
  }
  const mode = file.dhcp?.mode ?? (file.dhcp?.range === undefined ? 'proxy' : 'server')
  if (mode === 'server' && file.dhcp?.range === undefined) {
    throw invalid('dhcp.mode is "server" but dhcp.range is not there', 'Add range = "FROM-TO" under [dhcp].')
  }
  return { mode, range: mode === 'server' ? file.dhcp?.range : undefined }
}

/** '192.168.77.100-192.168.77.199'. */
export function parseRange(text: string): AddressRange | undefined {
  const [first, last, ...more] = text.split('-').map((part) => parseIpv4(part.trim()))
  if (first === undefined || last === undefined || more.length > 0 || first > last) return undefined
  return { first, last }
}

export function formatRange(addresses: AddressRange): string {
  return `${formatIpv4(addresses.first)}-${formatIpv4(addresses.last)}`
}

function invalid(message: string, hint: string): OperationError {
  return new OperationError('configInvalid', message, hint)
}

/** Without the keys whose value is undefined, so that spreading it over a default leaves the default. */
function defined<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined)
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> }
}

function knownKeys(path: readonly string[]): string[] {
  let node: unknown = schema
  for (const key of path) {
    while (node instanceof z.ZodOptional) node = node.unwrap()
    if (node instanceof z.ZodRecord) node = node.valueType
    else if (node instanceof z.ZodObject) node = (node.shape as Record<string, unknown>)[key]
  }
  while (node instanceof z.ZodOptional) node = node.unwrap()
  return node instanceof z.ZodObject ? Object.keys(node.shape) : []
}

/** The line, counted from 1, where the last of `keys` is set; of the deepest table that has one if it is not. */
function lineOfKey(text: string, keys: readonly string[]): number {
  const lines = text.split('\n')
  let line = 1
  let from = 0
  for (const key of keys) {
    const name = key.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')
    const pattern = new RegExp(`^\\s*(\\[[^\\]]*["']?${name}["']?[^\\]]*\\]|(.*\\.)?["']?${name}["']?\\s*(=|\\.))`)
    const found = lines.findIndex((candidate, index) => index >= from && pattern.test(candidate))
    if (found === -1) continue
    from = found
    line = found + 1
  }
  return line
}
