/**
 * The scripts, one for each thing there is to tell a machine. Whatever happens, each ends in `exit 1`: iPXE then gives the
 * machine back, and because it ends with an error, UEFI goes on to the next boot option instead of its menu (UEFI 2.10
 * §3.1.1; a BIOS goes on either way).
 */
import type { Mac } from '../base/address.ts'
import type { Secret } from '../base/secret.ts'
import {
  and,
  blank,
  chainReplace,
  clear,
  comment,
  echo,
  exit,
  goto,
  ifopen,
  imgfetch,
  imgfree,
  iseq,
  isset,
  label,
  line,
  or,
  plain,
  plainText,
  sanboot,
  sanbootUndescribed,
  secret,
  set,
  setting,
  sleep,
  vcreate,
  whatever,
  word,
} from '../ipxe/command.ts'
import { parseWord } from '../ipxe/parse.ts'
import type { Line, Part, Script, Word } from '../ipxe/script.ts'
import type { Refusal } from './choose-script.ts'
import {
  diskPausesSeconds,
  pollPausesSeconds,
  pollsBetweenNotices,
  refusalSeconds,
  reportTimeoutMs,
  screenColumns,
} from './limits.ts'

export type Login = { readonly user: string; readonly secret: Secret }

export type StorageAddress = { readonly vlan: number; readonly address: string; readonly netmask: string }

export type BootScriptFacts = {
  readonly mac: Mac
  /** What people call the disk. */
  readonly image: string
  /** Why the machine's firmware will find nothing to start on it, where that is known. */
  readonly noLoader?: string | undefined
  readonly bootId: string
  /** Where the target listens, as the machine sees it. */
  readonly portal: { readonly address: string; readonly port: number }
  /** The disk is on a VLAN of its own, and the machine has this address there; undefined: where it boots from. */
  readonly storage: StorageAddress | undefined
  readonly targetName: string
  readonly initiatorName: string
  /** Undefined: the target asks for no proof. */
  readonly initiator: Login | undefined
  /** What the target must prove to the machine. Undefined: one-way CHAP, or none. */
  readonly target: Login | undefined
  /** Where failures are told; `reportUrl`. */
  readonly reportUrl: string
  /** Where a fresh script is, for when the secrets of this one are refused; undefined: enough of that. */
  readonly refetchUrl: string | undefined
}

/**
 * iPXE's numbers for what can go wrong at the disk, as ${errno:hexraw} shows them. Seen in 2019's and 2026's (docs/quirks.md).
 * The last byte is the platform's own word for it, so that BIOS and EFI have different ones.
 */
const diskError = {
  secretRefused: ['410d613c', '410d618f'],
  targetUnproven: ['020d623c', '020d628f'],
  /** BIOS: no 55AA at the end of the first block. */
  noBootSector: ['1d852039'],
  /** UEFI (iPXE of 2019): no \\EFI\\BOOT\\BOOTX64.EFI to be found on it. */
  noEfiLoader: ['7f22208e'],
  /** An EFI without EFI_ACPI_TABLE_PROTOCOL has nowhere to put an iBFT: "Could not describe SAN devices". U-Boot's is one. */
  noDescription: ['3c222083'],
} as const

/** Who made the firmware: SMBIOS structure 0, the string that byte 4 names. Escaped, so that it is one word. */
export const firmwareVendor = 'smbios/0.4.0:uristring'

/** Logs in to the machine's disk and boots from it; tries again with growing pauses. Holds secrets: print it for the machine only. */
export function bootScript(facts: BootScriptFacts): Script {
  const { address, port } = facts.portal
  return [
    comment(`Slipway: boot ${facts.bootId} of ${plain(facts.mac)}`),
    line(echo('')),
    line(echo(`Slipway: ${plain(facts.mac)} boots ${plainText(facts.image)} from ${address}`)),
    ...(facts.noLoader === undefined ? [] : noLoaderNotice(facts.noLoader)),
    line(set('initiator-iqn', facts.initiatorName)),
    // All four, always: settings outlive a script, and one that ran before may have left its own.
    ...credentials('username', 'password', facts.initiator),
    ...credentials('reverse-username', 'reverse-password', facts.target),
    // Never empty: a command with a word too few would print its usage.
    line(set('slipway-firmware', 'by-', setting(firmwareVendor))),
    ...(facts.storage === undefined ? [] : joinVlan(facts.storage)),
    ...tries(diskPausesSeconds, 'connect', 'give-up'),
    blank,
    label('connect'),
    // Known beforehand: U-Boot starts over when a disk is given back and hooked again.
    line(iseq(setting('slipway-firmware'), 'by-U-Boot'), and(goto('undescribed')), whatever),
    // Not `sanhook` first: on BIOS `sanboot` would then open a second session beside the first. Not `keep-san` either: a
    // drive kept after a failure makes the next try fail for "address in use".
    line(sanboot(word(diskUri(address, port, facts.targetName))), and(goto('returned')), whatever),
    line(set('slipway-error', setting('errno:hexraw'))),
    ...onError(diskError.noDescription, 'undescribed'),
    label('failed'),
    ...report(facts.reportUrl, 'disk-failed', setting('slipway-error')),
    line(
      echo('Slipway: the disk did not boot, try', setting('slipway-try'), 'of', String(diskPausesSeconds.length + 1)),
    ),
    ...onError(diskError.secretRefused, 'secret-refused'),
    ...onError(diskError.targetUnproven, 'target-unproven'),
    ...onError(diskError.noBootSector, 'no-loader'),
    ...onError(diskError.noEfiLoader, 'no-loader'),
    line(echo('Why stands above; more at', word('https://ipxe.org/', setting('slipway-error')))),
    line(echo(`Does the firewall of ${address} let TCP port ${port} through?`)),
    ...pause(),
    blank,
    label('undescribed'),
    line(echo('This firmware cannot tell the system where its disk is; booting all the same.')),
    line(sanbootUndescribed(word(diskUri(address, port, facts.targetName))), and(goto('returned')), whatever),
    line(set('slipway-error', setting('errno:hexraw'))),
    line(goto('failed')),
    blank,
    label('secret-refused'),
    line(echo('The disk refused the secret of this script: a newer boot has begun.')),
    ...(facts.refetchUrl === undefined
      ? [line(goto('give-up'))]
      : [
          line(sleep('2'), or(goto('give-up'))),
          line(chainReplace(uriWord(facts.refetchUrl)), or(goto('give-up'))),
          // `--replace` ends this script here; an older iPXE that goes on must not fall into the next step.
          line(goto('give-up')),
        ]),
    blank,
    label('target-unproven'),
    line(echo(`What answers at ${address} is not the disk of this script.`)),
    line(echo('It could not prove the secret of this boot.')),
    line(echo('Look for another machine with that address.')),
    line(goto('give-up')),
    blank,
    label('no-loader'),
    line(echo('The disk has no boot loader for this firmware.')),
    line(echo('On the server, type: slipway doctor')),
    line(goto('give-up')),
    ...(facts.storage === undefined ? [] : noVlan(facts.storage)),
    blank,
    label('returned'),
    line(echo('Slipway: the disk handed the machine back.')),
    line(exit(1)),
    ...giveUp(facts.reportUrl),
  ]
}

/** It is tried all the same: only the firmware knows. A BIOS that finds no code on a disk says nothing and hangs. */
function noLoaderNotice(reason: string): Line[] {
  // What the script language or a screen of 80 columns cannot show.
  const words = reason.replaceAll('\\', '/').replaceAll(';', ',').split(' ')
  const lines: string[] = []
  for (const said of words) {
    const last = lines.at(-1)
    // A line does not begin with a dash.
    const isFull = last === undefined || (last.length + said.length >= screenColumns && !said.startsWith('-'))
    if (isFull) lines.push(plain(said))
    else lines[lines.length - 1] = `${last} ${plain(said)}`
  }
  return [
    line(echo('Slipway: this disk has no boot loader for this firmware.')),
    ...lines.map((text) => line(echo(text))),
  ]
}

export type HeldScriptFacts = {
  readonly mac: Mac
  readonly uuid: string | undefined
  readonly serial: string | undefined
  /**
   * The UUID (or `none`) of this board where another was admitted with its MAC address: it was changed, or is somebody else.
   * The UUID of that other stays on the server: whoever reads it here could come back with it.
   */
  readonly rival?: string | undefined
  /** How many times it has asked before. */
  readonly pollCount: number
  /** Its script's URL with the count that follows. */
  readonly pollUrl: string
}

/** Says that the machine waits for a person, and asks again until that person has decided. */
export function heldScript(facts: HeldScriptFacts): Script {
  const { mac, uuid, serial, rival, pollCount } = facts
  const notice: Line[] = [
    line(echo('')),
    line(echo('Slipway: this machine waits for admission.')),
    line(echo('MAC address', plain(mac))),
    ...(uuid === undefined ? [] : [line(echo('UUID', plain(uuid)))]),
    ...(rival === undefined ? [] : [line(echo('Another board was admitted with this MAC address.'))]),
    ...(serial === undefined ? [] : [line(echo('Serial number', plainText(serial)))]),
    line(echo('To let it in, type on the server: slipway admit', plain(mac))),
    ...(rival === undefined ? [] : [line(echo('with', plain('--uuid'), plain(rival)))]),
    line(echo("It then boots by itself. Ctrl-C goes on with the firmware's next device.")),
    line(echo('')),
  ]
  return [
    comment(`Slipway: ${plain(mac)} waits for admission`),
    ...(pollCount % pollsBetweenNotices === 0 ? notice : []),
    line(sleep(pollSeconds(pollCount)), or(goto('stopped'))),
    ...askUntilAnswered(facts.pollUrl),
  ]
}

/** Of a script that waits: fetches the one that follows, or goes on with the firmware. */
function askUntilAnswered(url: string): Line[] {
  return [
    ...tries(pollPausesSeconds, 'ask', 'stopped'),
    blank,
    label('ask'),
    line(chainReplace(uriWord(url)), and(goto('stopped')), whatever),
    line(echo('Slipway does not answer, try', setting('slipway-try'), 'of', String(pollPausesSeconds.length + 1))),
    ...pause(),
    blank,
    label('stopped'),
    label('give-up'),
    line(echo('Slipway: no longer waiting; the firmware goes on.')),
    line(exit(1)),
  ]
}

export type TlsScriptFacts = {
  readonly mac: Mac
  /** Its script by HTTPS; undefined: that is not served now. */
  readonly url: string | undefined
  readonly pollCount: number
  /** Its script by HTTP, with the count that follows. */
  readonly pollUrl: string
}

/** For a machine whose iPXE has HTTPS and that asked without: sends it there, once there is something to be sent to. */
export function tlsScript({ mac, url, pollCount, pollUrl }: TlsScriptFacts): Script {
  const notice: Line[] = [
    line(echo('')),
    line(echo('Slipway: this machine gets its script by HTTPS, which the server does not serve')),
    line(echo('now. On the server, look why: slipway doctor')),
    line(echo("It then boots by itself. Ctrl-C goes on with the firmware's next device.")),
  ]
  const isNoticed = url === undefined && pollCount % pollsBetweenNotices === 0
  return [
    comment(`Slipway: ${plain(mac)} goes on by HTTPS`),
    ...(isNoticed ? notice : []),
    ...(url === undefined ? [line(sleep(pollSeconds(pollCount)), or(goto('stopped')))] : []),
    ...askUntilAnswered(url ?? pollUrl),
  ]
}

export type RefusedScriptFacts = {
  readonly mac: Mac
  readonly why: Refusal
}

const refusals: Readonly<Record<Refusal, readonly string[]>> = {
  machine: ['this machine is not admitted here.', 'To let it in, type on the server: slipway admit'],
  needsTls: [
    'this machine gets its script by HTTPS only; its iPXE asked without.',
    'Add one that has it, or allow less (transport, require):',
  ],
  needsCertificate: [
    'this machine must prove itself by a certificate, and its iPXE has none.',
    'On the server: slipway certificate issue',
  ],
  certificateUnknown: [
    'the certificate in this iPXE is not known here.',
    'On the server, make another: slipway certificate issue',
  ],
  certificateOfAnother: [
    'the certificate in this iPXE was made for another machine.',
    'On the server, make one for this: slipway certificate issue',
  ],
  certificateRevoked: [
    'the certificate in this iPXE was revoked.',
    'Make another on the server: slipway certificate issue',
  ],
  certificateUnfit: [
    'the certificate in this iPXE is out of date, or not from here.',
    'On the server, make another: slipway certificate issue',
  ],
  needsVlan: [
    'the disk is on a VLAN, which this iPXE cannot join.',
    'Add one built with VLAN_CMD: slipway loaders add. Machine',
  ],
  noAddress: [
    'all addresses of the storage VLAN are taken.',
    'Make the range in [network.storage] larger, for machine',
  ],
  needsIscsi: ['this iPXE was built without iSCSI.', 'Add one that has it to the loaders folder, for machine'],
  noDisk: ['there is no disk image for this machine.', 'Assign one on the server, for machine'],
}

/** Says why not and what to do, leaves time to read it, and gives the machine back. */
export function refusedScript(facts: RefusedScriptFacts): Script {
  const [what = '', advice = ''] = refusals[facts.why]
  return [
    comment(`Slipway: ${plain(facts.mac)} is refused`),
    line(echo('')),
    line(echo(`Slipway: ${what}`)),
    line(echo(advice, plain(facts.mac))),
    line(sleep(String(refusalSeconds)), whatever),
    line(exit(1)),
  ]
}

/** Gives the machine back at once, for its own disk. */
export function localScript(mac: Mac): Script {
  return [comment(`Slipway: ${plain(mac)} boots its own disk`), line(exit(1))]
}

/** RFC 4173 §5: iscsi:server:protocol:port:LUN:target. LUN 0 is the machine's disk. */
export function diskUri(address: string, port: number, targetName: string): string {
  return `iscsi:${address}::${port}:0:${targetName}`
}

/** The network card that was opened last, and its VLAN by the name that iPXE gives it (src/net/vlan.c): net0-2. */
const trunk = 'slipway-trunk'
const vlanInterface = 'slipway-vlan'

/**
 * Joins the VLAN with a fixed address: nothing on it has to answer first. A script that runs again finds what the one before
 * it left: the card opened last is then the VLAN itself, and its own trunk is remembered.
 */
function joinVlan({ vlan, address, netmask }: StorageAddress): Line[] {
  const setOf = (name: string, value: string): Line =>
    line([word('set'), word(setting(vlanInterface), `/${name}`), word(value)], or(goto('no-vlan')))
  return [
    line(isset(setting(trunk)), or(set(trunk, setting('netX/ifname')))),
    line(set(vlanInterface, setting(trunk), `-${vlan}`)),
    line(vcreate(vlan, setting(trunk)), or(goto('no-vlan'))),
    setOf('ip', address),
    setOf('netmask', netmask),
    line(ifopen(setting(vlanInterface)), or(goto('no-vlan'))),
    line(echo(`Slipway: the disk is on VLAN ${vlan}, this machine is ${address} there`)),
  ]
}

function noVlan({ vlan }: StorageAddress): Line[] {
  return [
    blank,
    label('no-vlan'),
    line(set('slipway-error', setting('errno:hexraw'))),
    line(echo(`Slipway: the disk is on VLAN ${vlan}, which this iPXE could not join.`)),
    line(echo('On the server, add one built with VLAN_CMD: slipway loaders add')),
    line(goto('give-up')),
  ]
}

function credentials(user: string, password: string, login: Login | undefined): Line[] {
  if (login === undefined) return [line(clear(user), whatever), line(clear(password), whatever)]
  return [line(set(user, login.user)), line(set(password, secret(login.secret)))]
}

function onError(numbers: readonly string[], target: string): Line[] {
  return numbers.map((number) => line(iseq(setting('slipway-error'), number), and(goto(target)), whatever))
}

/**
 * A loop that counts without arithmetic, which iPXE lacks: each try sets how long to pause after it and where to go then.
 * After the last pause goes to `end`.
 */
export function tries(pausesSeconds: readonly number[], start: string, end: string): Line[] {
  const lines: Line[] = []
  for (let index = 0; index <= pausesSeconds.length; index++) {
    const pauseSeconds = pausesSeconds[index]
    lines.push(
      blank,
      label(`try-${index + 1}`),
      line(set('slipway-try', String(index + 1))),
      line(set('slipway-pause', String(pauseSeconds ?? 0))),
      line(set('slipway-next', pauseSeconds === undefined ? end : `try-${index + 2}`)),
      line(goto(start)),
    )
  }
  return lines
}

/** The other end of `tries`: pauses as long as the try said, and goes where it said. */
export function pause(): Line[] {
  const next = goto(setting('slipway-next'))
  return [
    line(iseq(setting('slipway-pause'), '0'), and(next), whatever),
    line(echo('Next try in', setting('slipway-pause'), 'seconds. Ctrl-C gives up.')),
    line(sleep(setting('slipway-pause')), or(goto('give-up'))),
    line(next),
  ]
}

export function giveUp(url: string, what = 'no boot from the disk', step = 'gave-up'): Line[] {
  return [
    blank,
    label('give-up'),
    ...report(url, step, setting('slipway-error')),
    line(echo(`Slipway: ${what}; the firmware goes on.`)),
    line(exit(1)),
  ]
}

/** Costs at most its timeout, after a failure; nothing that follows depends on it. */
export function report(url: string, step: string, error: Part): Line[] {
  const name = 'slipway-report'
  const uri = word(...uriWord(`${url}&step=${step}&error=`), error)
  return [line(imgfetch(uri, { name, timeoutMs: reportTimeoutMs }), and(imgfree(name)), whatever)]
}

/** The first minute every 3 seconds, for the person who stands in front of it; then ever more seldom. */
function pollSeconds(pollCount: number): string {
  return pollCount < 20 ? '3' : pollCount < 100 ? '5' : '10'
}

/** Addresses bring settings of the machine's with them: ${uuid}. */
export function uriWord(uri: string): Word {
  return parseWord(uri, 1)
}
