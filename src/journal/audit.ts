/**
 * What one boot was protected by, and what not: from the events of its attempt. A pure function, so that the answer for a
 * boot of last week is the same today.
 *
 * A grade is the worst that was found, never an average. DHCP and TFTP count as protected never; what cannot be seen from
 * here (Secure Boot, who listens) is said to be unseen.
 *
 *   A  nothing of it could be read or changed on the wire
 *   B  it rests on an algorithm that is old, or on a switch that keeps others out
 *   C  somebody between the two can read or change blocks, or ask in the machine's name
 *   D  somebody who answers first can put another program or another disk in the place of ours
 *   E  whoever only listens has the secrets of this boot
 *   F  no secret was asked for
 */
import type { Mac } from '../base/address.ts'
import type { Attempt, Outcome } from './attempt.ts'
import type { BootEvent, Happening, ProvedBy, Stage } from './events.ts'
import { certificateFault, foreign } from './text.ts'

export type Grade = 'A' | 'B' | 'C' | 'D' | 'E' | 'F'

export type AuditStep = {
  readonly step: 'address' | 'loader' | 'script' | 'kernel' | 'disk'
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
    auditKernel(events),
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

function fetchedLoaders(events: readonly BootEvent[]): readonly Fetched[] {
  const fetched: Fetched[] = []
  for (const event of events) {
    if (event.kind === 'tftpDone') fetched.push({ file: event.file, by: 'TFTP' })
    if (event.kind !== 'httpServed' || event.status >= 300 || !event.path.startsWith('/loader/')) continue
    fetched.push({ file: event.path.slice('/loader/'.length), by: event.encrypted ? 'HTTPS' : 'HTTP' })
  }
  return fetched
}

function auditLoader(events: readonly BootEvent[]): Found {
  const fetched = fetchedLoaders(events)
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
  const proof = weakest(scripts.map((script) => script.proof ?? { kind: 'admission' }))
  const step: AuditStep = {
    step: 'script',
    what: isPlain ? 'Script with the secrets of this boot, by HTTP' : 'Script with the secrets of this boot, by HTTPS',
    machineProved: proofWords(proof),
    serverProved: isPlain ? 'nothing' : 'our certificate (iPXE goes on with no other than those it trusts)',
    encrypted: isPlain ? 'no' : cipherWords(agreed),
    attacker: isPlain ? 'read the secrets, change the script, ask for one in its name' : againstProof[proof.kind],
  }
  return { steps: [step], reasons: [...secrecyReasons(isPlain, agreed), ...proofReasons(proof, events)] }
}

function secrecyReasons(isPlain: boolean, agreed: readonly EventOf<'tlsAgreed'>[]): AuditReason[] {
  if (isPlain) {
    const why = 'the script came by HTTP: whoever listened has the secrets of this boot, and with them the disk'
    const remedy =
      "Use a loader with HTTPS that trusts this site (slipway loaders add --trust-us, or the kit); Debian's has none."
    return [{ caps: 'E', why, remedy }]
  }
  const old = agreed.find(({ cipher, protocol }) => !isModern(cipher, protocol))
  if (old === undefined) return []
  const why = `TLS used ${old.cipher}, which is old: ${weaknessOf(old.cipher)}`
  const setting = old.compat === undefined ? 'what is not needed' : `"${old.compat}"`
  return [{ caps: 'B', why, remedy: `Use a newer loader, then take ${setting} out of [https] compat.` }]
}

/** Without the disk's boot loader: kernel and initramfs, and the archive with the secrets behind them. */
function auditKernel(events: readonly BootEvent[]): Found {
  const fetched = of(events, 'httpServed').filter(({ path, status }) => path.startsWith('/linux/') && status < 300)
  if (fetched.length === 0) return nothingFound
  const isPlain = fetched.some(({ encrypted }) => !encrypted)
  const step: AuditStep = {
    step: 'kernel',
    what: `Kernel, initramfs and the secrets for Linux, by ${isPlain ? 'HTTP' : 'HTTPS'}`,
    machineProved: 'that it has the script of this boot',
    serverProved: isPlain ? 'nothing' : 'our certificate (iPXE goes on with no other than those it trusts)',
    encrypted: isPlain ? 'no' : cipherWords(of(events, 'tlsAgreed')),
    attacker: isPlain ? 'read the secrets, put another kernel in its place' : 'nothing but stop it',
  }
  if (!isPlain) return { steps: [step], reasons: [] }
  const why = 'the kernel came by HTTP: it could have been another on its way'
  const remedy =
    "Use a loader with HTTPS that trusts this site (slipway loaders add --trust-us, or the kit); Debian's has none."
  return { steps: [step], reasons: [{ caps: 'D', why, remedy }] }
}

const strength: Readonly<Record<ProvedBy['kind'], number>> = { admission: 0, login: 1, certificate: 2 }

/** Several scripts were handed out in one boot: any of them opens the disk. */
function weakest(proofs: readonly ProvedBy[]): ProvedBy {
  return proofs.toSorted((a, b) => strength[a.kind] - strength[b.kind])[0] ?? { kind: 'admission' }
}

function proofWords(proof: ProvedBy): string {
  switch (proof.kind) {
    case 'admission':
      return nobody
    case 'login':
      return `nothing itself; ${foreign(proof.account)} signed in at it, by password`
    case 'certificate':
      return `a certificate of this site, sha256:${proof.fingerprint.slice(0, 16)}…`
  }
}

const againstProof: Readonly<Record<ProvedBy['kind'], string>> = {
  admission: "ask for a script of its own in the machine's name",
  login: 'guess passwords, as slowly as wrong ones are answered',
  certificate: 'nothing but stop it',
}

function proofReasons(proof: ProvedBy, events: readonly BootEvent[]): AuditReason[] {
  const fetched = fetchedLoaders(events)
  switch (proof.kind) {
    case 'admission': {
      const why = 'the machine proved nothing before it got its secrets: its MAC address and UUID can be copied'
      const remedy =
        'Demand a proof: require = "certificate" (slipway certificate issue), or "login" (slipway account add).'
      return [{ caps: 'C', why, remedy }]
    }
    case 'login': {
      const who = foreign(proof.account)
      const note = `that it is this machine is the word of ${who}, who signed in: whoever knows the password could have, at any machine`
      if (fetched.every(({ by }) => by === 'HTTPS')) return [{ caps: undefined, why: note, remedy: '' }]
      const why = `${who} typed the password into a loader that could have been another on its way`
      const remedy = `Give ${who} another password, and the machine a loader of its own (slipway loaders kit) or Secure Boot.`
      return [
        { caps: 'D', why, remedy },
        { caps: undefined, why: note, remedy: '' },
      ]
    }
    case 'certificate': {
      if (fetched.length === 0) return []
      const why = "the machine's key came over the network, in its loader: whoever asks for that loader has the key"
      const remedy =
        "Revoke it (slipway certificate revoke), and put a new one into the machine's flash or on its stick."
      return [{ caps: 'C', why, remedy }]
    }
  }
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
  const vlan = bootScripts(events).at(-1)?.storageVlan
  // Each program once: the operating system logs in again and again.
  const distinct = new Map(logins.map((login) => [`${login.stage} ${login.authentication} ${login.algorithm}`, login]))
  const steps = [...distinct.values()].map((login): AuditStep => {
    const chap = `CHAP with ${(login.algorithm ?? '').toUpperCase()}`
    return {
      step: 'disk',
      what: `Disk by iSCSI${vlan === undefined ? '' : ` on VLAN ${vlan}`}, to ${stageWords[login.stage]}`,
      machineProved: login.authentication === 'none' ? 'nothing: CHAP is off' : `its secret of this boot, by ${chap}`,
      serverProved: login.authentication === 'mutual' ? `our secret of this boot, by ${chap}` : 'nothing',
      encrypted: 'no: iSCSI has no encryption, and CHAP protects the login only',
      attacker: storageApart
        ? 'nothing, as long as nobody else is on that network'
        : vlan === undefined
          ? 'read every block; from between the two, change them after the login'
          : `nothing without access to VLAN ${vlan}; with it, read every block, and from between the two change them`,
    }
  })
  const clear = storageApart ? apartNote : vlan === undefined ? clearReason : vlanReason(vlan)
  return { steps, reasons: [...loginReasons(logins), clear] }
}

const clearReason: AuditReason = {
  caps: 'C',
  why: 'iSCSI is not encrypted: blocks can be read on the wire, and changed by who is in between',
  remedy: 'Put iSCSI on a VLAN of its own that only the machines and this server are on.',
}
/** A tag is no lock: what keeps others out of a VLAN is the switch, and that cannot be seen from here. */
const vlanReason = (vlan: number): AuditReason => ({
  caps: 'B',
  why: `iSCSI is not encrypted; it is on VLAN ${vlan}, and what keeps others out of that is your switch`,
  remedy: `Let the switch carry VLAN ${vlan} to machines and this server only, then give your word: --storage-apart.`,
})
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
  const certificates = of(events, 'certificateRefused')
  const firstRefused = certificates[0]
  if (firstRefused !== undefined) {
    const why = `${times(certificates.length)} a certificate was refused: ${certificateFault(firstRefused)}`
    reasons.push({ caps: undefined, why, remedy: 'A loader that was kept, or copied: slipway certificate list.' })
  }
  const wrong = of(events, 'signInFailed')
  if (wrong.length > 0) {
    const why = `${times(wrong.length)} somebody could not sign in at it`
    reasons.push({ caps: undefined, why, remedy: '' })
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
