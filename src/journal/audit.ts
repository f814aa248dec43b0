/**
 * What one boot was protected by, and what not: from the events of its attempt. A pure function, so that the answer for a
 * boot of last week is the same today.
 *
 * A grade is the worst that was found, never an average. DHCP and TFTP count as protected never; what cannot be seen from
 * here (Secure Boot, who listens) is said to be unseen.
 *
 *   A  nothing of it could be read or changed on the wire
 *   B  it rests on an algorithm that is old
 *   C  somebody between the two can read or change blocks, or ask in the machine's name
 *   D  somebody who answers first can put another program or another disk in the place of ours
 *   E  whoever only listens has the secrets of this boot
 *   F  no secret was asked for
 */
import type { Mac } from '../base/address.ts'
import type { Attempt, Outcome } from './attempt.ts'
import type { BootEvent, Happening, Stage } from './events.ts'
import { foreign } from './text.ts'

export type Grade = 'A' | 'B' | 'C' | 'D' | 'E' | 'F'

export type AuditStep = {
  readonly step: 'address' | 'loader' | 'script' | 'disk'
  /** 'Loader by TFTP: snponly.efi'. */
  readonly what: string
  /** What the machine proved to us. */
  readonly machineProved: string
  /** What we proved to the machine. */
  readonly serverProved: string
  readonly encrypted: string
  /** What somebody on the wire could still do. */
  readonly attacker: string
}

export type AuditReason = {
  /** No better than this because of it; undefined: worth knowing, and no worse for it. */
  readonly caps: Grade | undefined
  readonly why: string
  /** What to do about it; empty where nothing can be done. */
  readonly remedy: string
}

export type Audit = {
  readonly mac: Mac
  readonly startedMs: number
  readonly outcome: Outcome['kind']
  readonly bootId: string | undefined
  /** Undefined: neither a secret nor a disk was handed out, so there was nothing to protect. */
  readonly grade: Grade | undefined
  /** Worst first. */
  readonly reasons: readonly AuditReason[]
  /** In the order of a boot. */
  readonly steps: readonly AuditStep[]
}

export type AuditTerms = {
  /** A person's word that only machines and server are on the network that carries iSCSI. Not to be seen from here. */
  readonly storageApart: boolean
}

type EventOf<K extends Happening['kind']> = Extract<BootEvent, { readonly kind: K }>
type Found = { readonly steps: readonly AuditStep[]; readonly reasons: readonly AuditReason[] }

const nobody = 'nothing: a MAC address is a claim'

/** `events` are the machine's from the attempt's first to its last. */
export function auditBoot(attempt: Attempt, events: readonly BootEvent[], terms: AuditTerms): Audit {
  const found = [
    auditAddress(events),
    auditLoader(events),
    auditScript(events),
    auditDisk(events, terms),
    auditIncidents(events),
  ]
  const reasons = found.flatMap((each) => each.reasons).toSorted((a, b) => rank(b.caps) - rank(a.caps))
  const exposed = of(events, 'iscsiLogin').length > 0 || bootScripts(events).length > 0
  return {
    mac: attempt.mac,
    startedMs: attempt.startedMs,
    outcome: attempt.outcome.kind,
    bootId: attempt.bootId,
    grade: exposed ? (reasons[0]?.caps ?? 'A') : undefined,
    reasons,
    steps: found.flatMap((each) => each.steps),
  }
}

function auditAddress(events: readonly BootEvent[]): Found {
  const answered = [...of(events, 'dhcpDiscover'), ...of(events, 'dhcpAck')]
  if (answered.length === 0) return nothingFound
  const step: AuditStep = {
    step: 'address',
    what: 'Address and boot file by DHCP',
    machineProved: nobody,
    serverProved: 'nothing: whoever answers first is believed',
    encrypted: 'no',
    attacker: 'answer first, and name another server and another boot file',
  }
  const others = new Set(of(events, 'dhcpOtherServer').map(({ server }) => server))
  const reasons = [...others].map((server): AuditReason => {
    const remedy =
      'Look whose it is: slipway doctor. Between the machines and another DHCP server, a switch can filter.'
    return { caps: undefined, why: `the machine took an offer of another DHCP server, ${server}`, remedy }
  })
  return { steps: [step], reasons }
}

type Fetched = { readonly file: string; readonly by: 'TFTP' | 'HTTP' | 'HTTPS' }

function auditLoader(events: readonly BootEvent[]): Found {
  const fetched: Fetched[] = []
  for (const event of events) {
    if (event.kind === 'tftpDone') fetched.push({ file: event.file, by: 'TFTP' })
    if (event.kind !== 'httpServed' || event.status >= 300 || !event.path.startsWith('/loader/')) continue
    fetched.push({ file: event.path.slice('/loader/'.length), by: event.encrypted ? 'HTTPS' : 'HTTP' })
  }
  if (fetched.length === 0) {
    if (bootScripts(events).length === 0) return nothingFound
    const step: AuditStep = {
      step: 'loader',
      what: 'Loader of its own: nothing was fetched',
      machineProved: nobody,
      serverProved: 'nothing was asked',
      encrypted: 'nothing was sent',
      attacker: 'nothing on the wire; what is in its flash cannot be seen from here',
    }
    return { steps: [step], reasons: [] }
  }
  const steps = fetched.map(({ file, by }): AuditStep => {
    const isChecked = by === 'HTTPS'
    return {
      step: 'loader',
      what: `Loader by ${by}: ${foreign(file)}`,
      machineProved: nobody,
      serverProved: isChecked ? "our certificate, by the firmware's own trust" : 'nothing',
      encrypted: isChecked ? cipherWords(of(events, 'tlsAgreed')) : 'no',
      attacker: isChecked ? 'nothing but stop it' : 'put another program in its place, unless Secure Boot checks it',
    }
  })
  if (fetched.every(({ by }) => by === 'HTTPS')) return { steps, reasons: [] }
  const why = `the loader came by ${fetched.find(({ by }) => by !== 'HTTPS')?.by}: it could have been another on its way`
  const remedy =
    "Put a loader that trusts this site into the machine's flash or on a stick (slipway loaders kit), or sign it and use Secure Boot."
  return { steps, reasons: [{ caps: 'D', why, remedy }] }
}

function auditScript(events: readonly BootEvent[]): Found {
  const scripts = bootScripts(events)
  if (scripts.length === 0) return nothingFound
  const isPlain = scripts.some(({ encrypted }) => !encrypted)
  const agreed = of(events, 'tlsAgreed')
  const proved = agreed.find(({ clientFingerprint }) => clientFingerprint !== undefined)?.clientFingerprint
  const machineProved = proved === undefined ? nobody : `a certificate of this site, sha256:${proved.slice(0, 16)}…`
  const reasons: AuditReason[] = []
  if (isPlain) {
    const why = 'the script came by HTTP: whoever listened has the secrets of this boot, and with them the disk'
    const remedy =
      "Use a loader with HTTPS that trusts this site (slipway loaders add --trust-us, or the kit); Debian's has none."
    reasons.push({ caps: 'E', why, remedy })
  } else {
    const old = agreed.find(({ cipher, protocol }) => !isModern(cipher, protocol))
    if (old !== undefined) {
      const why = `TLS used ${old.cipher}, which is old: ${weaknessOf(old.cipher)}`
      const setting = old.compat === undefined ? 'what is not needed' : `"${old.compat}"`
      reasons.push({ caps: 'B', why, remedy: `Use a newer loader, then take ${setting} out of [https] compat.` })
    }
  }
  if (proved === undefined) {
    const why = 'the machine proved nothing before it got its secrets: its MAC address and UUID can be copied'
    const remedy =
      'Keep the network to machines that you know (a switch port each), or build a certificate into the loader.'
    reasons.push({ caps: 'C', why, remedy })
  }
  const step: AuditStep = {
    step: 'script',
    what: isPlain ? 'Script with the secrets of this boot, by HTTP' : 'Script with the secrets of this boot, by HTTPS',
    machineProved,
    serverProved: isPlain ? 'nothing' : 'our certificate (iPXE goes on with no other than those it trusts)',
    encrypted: isPlain ? 'no' : cipherWords(agreed),
    attacker: isPlain
      ? 'read the secrets, change the script, ask for one in its name'
      : proved === undefined
        ? "ask for a script of its own in the machine's name"
        : 'nothing but stop it',
  }
  return { steps: [step], reasons }
}

const stageWords: Readonly<Record<Stage, string>> = {
  firmware: 'firmware',
  ipxe: 'iPXE',
  system: 'the operating system',
  unknown: 'an initiator',
}

function auditDisk(events: readonly BootEvent[], { storageApart }: AuditTerms): Found {
  const logins = of(events, 'iscsiLogin')
  if (logins.length === 0) return nothingFound
  // Each program once: the operating system logs in again and again.
  const distinct = new Map(logins.map((login) => [`${login.stage} ${login.authentication} ${login.algorithm}`, login]))
  const steps = [...distinct.values()].map((login): AuditStep => {
    const chap = `CHAP with ${(login.algorithm ?? '').toUpperCase()}`
    return {
      step: 'disk',
      what: `Disk by iSCSI, to ${stageWords[login.stage]}`,
      machineProved: login.authentication === 'none' ? 'nothing: CHAP is off' : `its secret of this boot, by ${chap}`,
      serverProved: login.authentication === 'mutual' ? `our secret of this boot, by ${chap}` : 'nothing',
      encrypted: 'no: iSCSI has no encryption, and CHAP protects the login only',
      attacker: storageApart
        ? 'nothing, as long as nobody else is on that network'
        : 'read every block; from between the two, change them after the login',
    }
  })
  return { steps, reasons: [...loginReasons(logins), ...(storageApart ? [apartNote] : [clearReason])] }
}

const clearReason: AuditReason = {
  caps: 'C',
  why: 'iSCSI is not encrypted: blocks can be read on the wire, and changed by who is in between',
  remedy: 'Put iSCSI on a VLAN of its own that only the machines and this server are on.',
}
const apartNote: AuditReason = {
  caps: undefined,
  why: 'iSCSI is not encrypted; that nobody else is on its network is your word, and was not checked',
  remedy: '',
}

function loginReasons(logins: readonly EventOf<'iscsiLogin'>[]): AuditReason[] {
  const reasons: AuditReason[] = []
  if (logins.some(({ authentication }) => authentication === 'none')) {
    const why = 'no secret was asked for: whoever knows the names has the disk'
    reasons.push({ caps: 'F', why, remedy: 'Set chap = "mutual" under [iscsi].' })
  }
  if (logins.some(({ authentication }) => authentication === 'oneWay')) {
    const why = 'we proved nothing to the machine (one-way CHAP): another target could have given it another disk'
    reasons.push({ caps: 'D', why, remedy: 'Set chap = "mutual" under [iscsi].' })
  }
  const old = new Set(logins.flatMap(({ algorithm }) => (isOldHash(algorithm) ? [algorithm?.toUpperCase()] : [])))
  for (const name of old) {
    const why = `CHAP used ${name}, which is broken as a hash; what holds is that the secrets are random (80 bits) and of one boot`
    const remedy = name === 'MD5' ? 'iPXE and most initiators have nothing else. Secrets of your own must be long.' : ''
    reasons.push({ caps: 'B', why, remedy })
  }
  return reasons
}

/** What went wrong on the way: an attack, or only bad luck; a person has to look. */
function auditIncidents(events: readonly BootEvent[]): Found {
  const reasons: AuditReason[] = []
  for (const { knownUuid, seenUuid } of of(events, 'identityAlarm').slice(0, 1)) {
    const why = `it came with UUID ${foreign(seenUuid)}, and was known with ${foreign(knownUuid)}`
    reasons.push({ caps: 'D', why, remedy: 'A changed board, or somebody else: look, then admit or refuse it.' })
  }
  const refused = of(events, 'iscsiLoginFailed')
  const first = refused[0]
  if (first !== undefined) {
    const why = `${times(refused.length)} a login from its address was refused: ${foreign(first.reason)}`
    reasons.push({ caps: undefined, why, remedy: 'A secret of an earlier boot, or somebody trying.' })
  }
  const failed = of(events, 'tlsFailed')
  const firstFailed = failed[0]
  if (firstFailed !== undefined) {
    const why = `${times(failed.length)} TLS could not be agreed on: ${foreign(firstFailed.reason)}`
    reasons.push({ caps: undefined, why, remedy: firstFailed.hint })
  }
  return { steps: [], reasons }
}

const nothingFound: Found = { steps: [], reasons: [] }

function of<K extends Happening['kind']>(events: readonly BootEvent[], kind: K): EventOf<K>[] {
  return events.filter((event): event is EventOf<K> => event.kind === kind)
}

function bootScripts(events: readonly BootEvent[]): EventOf<'scriptServed'>[] {
  return of(events, 'scriptServed').filter(({ script }) => script === 'boot')
}

const grades = 'ABCDEF'

function rank(grade: Grade | undefined): number {
  return grade === undefined ? -1 : grades.indexOf(grade)
}

function times(count: number): string {
  return count === 1 ? 'once' : `${count} times`
}

function isOldHash(algorithm: string | undefined): boolean {
  return algorithm === 'md5' || algorithm === 'sha1'
}

/** OpenSSL's names: 'ECDHE-RSA-AES128-GCM-SHA256', 'AES128-SHA256', TLS 1.3's 'TLS_AES_128_GCM_SHA256'. */
function isModern(cipher: string, protocol: string): boolean {
  return protocol === 'TLSv1.3' || (/^(EC)?DHE-/.test(cipher) && /GCM|CHACHA20|CCM/.test(cipher))
}

function weaknessOf(cipher: string): string {
  const hasForwardSecrecy = /^(EC)?DHE-/.test(cipher)
  return hasForwardSecrecy
    ? 'CBC mode'
    : "no forward secrecy, so whoever gets the server's key later can read what was recorded"
}

function cipherWords(agreed: readonly EventOf<'tlsAgreed'>[]): string {
  const words = new Set(agreed.map(({ protocol, cipher }) => `${protocol.replace('TLSv', 'TLS ')}, ${cipher}`))
  return words.size === 0 ? 'by TLS; with which algorithm was not recorded' : [...words].join('; ')
}
