/**
 * Goal: what the documents say is what the code does. Method: blocks marked `<!-- checked: NAME -->` are made again by the
 * code they describe; every link leads to a file; every symbol that a table points to stands in the file it names.
 * SLIPWAY_UPDATE_DOCS=1 writes the blocks instead of comparing them.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { formatIpv4 } from '../../src/base/address.ts'
import { Secret } from '../../src/base/secret.ts'
import { linuxUrl, reportUrl, scriptUrl, type WebServer } from '../../src/boot/addresses.ts'
import { kernelScript } from '../../src/boot/kernel-script.ts'
import { kernelLine } from '../../src/boot/linux-settings.ts'
import { loadersAmong } from '../../src/boot/loaders.ts'
import { planBoot } from '../../src/boot/plan.ts'
import { bootScript, heldScript } from '../../src/boot/scripts.ts'
import { recognise } from '../../src/dhcp/client.ts'
import { readIpxeFacts } from '../../src/dhcp/ipxe-options.ts'
import { decode, type Message } from '../../src/dhcp/message.ts'
import * as option from '../../src/dhcp/option.ts'
import type { BootAnswer } from '../../src/dhcp/policy.ts'
import { leaseReply, type Network, proxyOffer } from '../../src/dhcp/reply.ts'
import { initiatorNameOf, namingAuthorityDefault, targetNameOf } from '../../src/fleet/names.ts'
import { printRedacted } from '../../src/ipxe/print.ts'
import { stream, testMac, wholeBoot } from '../../src/journal/testing/streams.ts'
import { sentence } from '../../src/journal/text.ts'
import { defaultLimits } from '../../src/tftp/limits.ts'
import { agree } from '../../src/tftp/options.ts'
import { readVector } from '../vectors.ts'

const root = resolve(import.meta.dirname, '../..')
const documents = ['CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.md', ...markdownUnder('docs'), ...markdownUnder('src')]

function markdownUnder(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.md'))
    .map((file) => join(folder, file))
}

const server: WebServer = { secure: false, host: '192.168.77.1', port: 80 }
const network: Network = {
  serverAddress: 0xc0a84d01,
  networkAddress: 0xc0a84d00,
  mask: 0xffffff00,
  routers: [],
  domainNameServers: [],
  domainName: undefined,
  leaseSeconds: 3600,
}
const loaders = loadersAmong(['undionly.kpxe', 'snponly.efi'])

/** What Slipway would answer to a captured DISCOVER of an admitted machine. */
function bootFor(request: Message): BootAnswer {
  const client = recognise(request)
  const plan = planBoot({
    client,
    standing: 'admitted',
    transport: 'auto',
    loaders,
    httpsServed: false,
    firmwareTrustsUs: false,
    diskOnVlan: false,
    loaderWasTried: false,
  })
  if (plan.kind === 'loader') return { kind: 'boot', bootFile: plan.file }
  return plan.kind === 'script' ? { kind: 'boot', bootFile: scriptUrl(server, client.mac) } : { kind: 'addressOnly' }
}

function offerTo(name: string, proxy: boolean): string {
  const request = decode(readVector('dhcp', name))
  const client = recognise(request)
  const boot = bootFor(request)
  if (proxy) return inWords(proxyOffer(request, client, network.serverAddress, boot))
  return inWords(leaseReply({ type: 'offer', request, client, network, yourAddress: 0xc0a84d73, boot }))
}

const optionWords: ReadonlyMap<number, (message: Message) => string> = new Map([
  [1, (m) => formatIpv4(m.options.get(option.subnetMask) ?? 0)],
  [28, (m) => formatIpv4(m.options.get(option.broadcastAddress) ?? 0)],
  [51, (m) => `${m.options.get(option.leaseSeconds)} seconds`],
  [54, (m) => formatIpv4(m.options.get(option.serverIdentifier) ?? 0)],
  [57, (m) => `${m.options.get(option.messageBytesMax)} bytes`],
  [58, (m) => `${m.options.get(option.renewalSeconds)} seconds`],
  [59, (m) => `${m.options.get(option.rebindingSeconds)} seconds`],
  [60, (m) => m.options.get(option.vendorClass) ?? ''],
  [66, (m) => m.options.get(option.tftpServerName) ?? ''],
  [67, (m) => m.options.get(option.bootFileName) ?? ''],
  [77, (m) => (m.options.get(option.userClass) ?? []).join()],
  [93, (m) => `architecture ${(m.options.get(option.clientArchitectures) ?? []).join()}`],
  [97, (m) => `UUID ${recognise(m).uuid}`],
])

const optionNames: ReadonlyMap<number, string> = new Map(
  Object.values(option).flatMap((kind) => (typeof kind === 'object' && 'code' in kind ? [[kind.code, kind.name]] : [])),
)

/** A message as lines: what it says in its fixed fields, then each option. */
function inWords(message: Message): string {
  const lines = [`${message.type.toUpperCase()}  transaction ${message.transaction.toString(16)}`]
  if (message.yourAddress !== 0) lines.push(`yiaddr  ${formatIpv4(message.yourAddress)}`)
  if (message.nextServer !== 0) lines.push(`siaddr  ${formatIpv4(message.nextServer)}`)
  if (message.bootFile !== '') lines.push(`file    ${message.bootFile}`)
  for (const [code, value] of message.options.entries()) {
    const hex = Buffer.from(value).toString('hex')
    const words = code === 175 ? ipxeWords(value) : (optionWords.get(code)?.(message) ?? hex)
    lines.push(`${String(code).padStart(6)}  ${(optionNames.get(code) ?? '').padEnd(22)} ${words}`)
  }
  return lines.join('\n')
}

function ipxeWords(value: Uint8Array): string {
  const { features } = readIpxeFacts(value)
  return features.size > 0 ? `can ${[...features].sort().join(' ')}` : Buffer.from(value).toString('hex')
}

function readRequestFor(who: string): string {
  const row = readFileSync(join(root, 'src/tftp/vectors/firmware.txt'), 'utf8')
    .split('\n')
    .map((line) => line.split(' | '))
    .find(([name]) => name === who)
  const [, what = ''] = row ?? []
  const wishes = new Map([...what.matchAll(/(\w+)=(\d+)/g)].map(([, name = '', value = '']) => [name, value]))
  const { acknowledged } = agree({
    options: wishes,
    fileBytes: 93_801,
    blockBytesMax: defaultLimits.blockBytesMax,
    limits: defaultLimits,
  })
  const answer = [...acknowledged].map(([name, value]) => `${name}=${value}`).join(' ')
  return `${what}\noptionAck ${answer}`
}

const bootId = 'k3x9abcd'
const login = (user: string): { user: string; secret: Secret } => ({ user, secret: new Secret('0'.repeat(16)) })
const script = bootScript({
  mac: testMac,
  image: 'debian-lab',
  bootId,
  portal: { address: server.host, port: 3260 },
  storage: undefined,
  targetName: targetNameOf(namingAuthorityDefault, testMac),
  initiatorName: initiatorNameOf(namingAuthorityDefault, testMac),
  initiator: login('OYQ4MTT5PYCJVJ5A'),
  target: login('D2WUR7G3ZLBKX6SE'),
  reportUrl: reportUrl(server, testMac, bootId),
  refetchUrl: scriptUrl(server, testMac, { refetch: 1 }),
})
const ofKernel = kernelScript({
  mac: testMac,
  image: 'debian-lab',
  bootId,
  address: server.host,
  files: {
    url: linuxUrl(server, testMac),
    key: new Secret('0'.repeat(32)),
    kernel: 'kernel',
    initramfs: ['initramfs-0'],
  },
  words: kernelLine({ commandLine: 'root=UUID=5c1b0a7e ro quiet', mac: testMac }) ?? [],
  isPc: true,
  reportUrl: reportUrl(server, testMac, bootId),
  refetchUrl: scriptUrl(server, testMac, { refetch: 1 }),
})
const held = heldScript({
  mac: testMac,
  uuid: '33221100-5544-7766-8899-aabbccddeeff',
  serial: undefined,
  pollCount: 0,
  pollUrl: scriptUrl(server, testMac, { poll: 1 }),
})

/** From the line that begins with `from` up to the blank line after it. */
function paragraph(text: string, from: string): string {
  const lines = text.split('\n')
  const start = lines.findIndex((line) => line.startsWith(from))
  const length = lines.slice(start).indexOf('')
  return lines.slice(start, start + length).join('\n')
}

const blocks: Readonly<Record<string, () => string>> = {
  'rom-discover': () => inWords(decode(readVector('dhcp', 'pxe-rom-discover'))),
  'rom-offer': () => offerTo('pxe-rom-discover', false),
  'rom-proxy-offer': () => offerTo('pxe-rom-discover', true),
  'ipxe-discover': () => inWords(decode(readVector('dhcp', 'ipxe-bios-discover'))),
  'ipxe-offer': () => offerTo('ipxe-bios-discover', false),
  'tftp-ipxe': () => readRequestFor('iPXE 1.0.0+ (2019)'),
  'tftp-ovmf': () => readRequestFor('OVMF 2022.11, probe for the size'),
  'script-head': () => paragraph(printRedacted(script), '#!ipxe'),
  'script-disk': () => paragraph(printRedacted(script), ':connect'),
  'kernel-script': () =>
    printRedacted(ofKernel)
      .split('\n')
      .filter((each) => /^(kernel|initrd|boot) /.test(each))
      .join('\n'),
  'script-held': () => paragraph(printRedacted(held), '#!ipxe'),
  'boot-events': () => {
    const events = stream(wholeBoot)
    const startMs = events[0]?.atMs ?? 0
    return events
      .map((event) => `${((event.atMs - startMs) / 1000).toFixed(2).padStart(6)} s  ${sentence(event)}`)
      .join('\n')
  },
}

const marked = /<!-- checked: ([a-z-]+) -->\n```\w*\n([\s\S]*?)\n```/g

describe('blocks that the code makes', () => {
  const used = new Set<string>()
  for (const document of documents) {
    if (!existsSync(join(root, document))) continue
    const text = readFileSync(join(root, document), 'utf8')
    for (const [, name = '', written = ''] of text.matchAll(marked)) {
      used.add(name)
      test(`${document}: ${name}`, () => {
        const made = blocks[name]?.()
        expect(made, `nothing makes ${name}`).toBeDefined()
        if (process.env['SLIPWAY_UPDATE_DOCS'] === '1') {
          const now = readFileSync(join(root, document), 'utf8')
          const update = now.replaceAll(marked, (all, block: string, old: string) =>
            block === name ? all.replace(`\n${old}\n\`\`\``, () => `\n${made}\n\`\`\``) : all,
          )
          writeFileSync(join(root, document), update)
          return
        }
        expect(written).toBe(made)
      })
    }
  }

  test('each is used', () => {
    expect(Object.keys(blocks).filter((name) => !used.has(name))).toEqual([])
  })
})

test('every link of every document leads to a file', () => {
  const broken: string[] = []
  for (const document of documents) {
    const text = readFileSync(join(root, document), 'utf8')
    for (const [, target = ''] of text.matchAll(/\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)/g)) {
      if (!existsSync(resolve(root, dirname(document), target))) broken.push(`${document}: ${target}`)
    }
  }
  expect(broken).toEqual([])
})

test('every `file: symbol` of a table stands in that file', () => {
  const wrong: string[] = []
  for (const document of documents) {
    const text = readFileSync(join(root, document), 'utf8')
    for (const [, file = '', symbols = ''] of text.matchAll(
      /`((?:src|test|lab|bench|scripts|packaging)\/[\w./-]+): ([^`]+)`/g,
    )) {
      const path = join(root, file)
      const content = existsSync(path) ? readFileSync(path, 'utf8') : ''
      for (const symbol of symbols.split(', ')) {
        if (!content.includes(symbol)) wrong.push(`${document}: ${relative(root, path)} has no ${symbol}`)
      }
    }
  }
  expect(wrong).toEqual([])
})
