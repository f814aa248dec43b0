/**
 * Every step of every boot, as data. Whoever wants to know how a machine is doing reads this stream: the terminal, the
 * dashboard, the audit trail, the metrics. An event never holds a secret; it may name a user, never what the user proved.
 *
 * `kind` says what happened; the group in front of it says who saw it.
 */
import type { Mac } from '../base/address.ts'

/** Which program on the machine spoke. */
export type Stage =
  /** The firmware itself: PXE ROM, UEFI, U-Boot. */
  | 'firmware'
  /** iPXE, whether in a ROM or loaded. */
  | 'ipxe'
  /** The operating system that was booted. */
  | 'system'
  | 'unknown'

export type Happening =
  // DHCP
  /** `firmware` is for people: 'UEFI x86_64', 'iPXE 1.0.0 (BIOS)'. `plan` is what it is told to do, and why. */
  | {
      readonly kind: 'dhcpDiscover'
      readonly stage: Stage
      readonly firmware: string
      readonly uuid: string | undefined
      readonly plan: string
    }
  /** `offeredAddress` is undefined from a proxy. */
  | {
      readonly kind: 'dhcpOffer'
      readonly stage: Stage
      readonly offeredAddress: string | undefined
      readonly file: string | undefined
    }
  | {
      readonly kind: 'dhcpAck'
      readonly stage: Stage
      readonly leasedAddress: string | undefined
      readonly file: string | undefined
    }
  | { readonly kind: 'dhcpNak'; readonly requestedAddress: string; readonly reason: string }
  | { readonly kind: 'dhcpDeclined'; readonly declinedAddress: string }
  | { readonly kind: 'dhcpReleased'; readonly releasedAddress: string }
  | { readonly kind: 'dhcpPoolExhausted' }
  | { readonly kind: 'dhcpOtherServer'; readonly server: string }

  // TFTP and HTTP
  | {
      readonly kind: 'tftpStarted'
      readonly file: string
      readonly fileBytes: number
      readonly blockBytes: number
      readonly windowBlocks: number
    }
  | { readonly kind: 'tftpDone'; readonly file: string; readonly fileBytes: number; readonly durationMs: number }
  /** The client wanted to know the size and went: a step on the way, not a failure. */
  | { readonly kind: 'tftpProbed'; readonly file: string }
  | { readonly kind: 'tftpAborted'; readonly file: string; readonly ackedBytes: number; readonly reason: string }
  | { readonly kind: 'tftpNotFound'; readonly file: string }
  | { readonly kind: 'tftpRefused'; readonly file: string; readonly reason: string }
  | {
      readonly kind: 'httpServed'
      readonly path: string
      readonly status: number
      readonly sentBytes: number
      readonly durationMs: number
      readonly encrypted: boolean
    }
  | { readonly kind: 'httpAborted'; readonly path: string; readonly sentBytes: number; readonly bodyBytes: number }
  | { readonly kind: 'httpNotFound'; readonly path: string }
  /** By OpenSSL's names: 'TLSv1.2', 'ECDHE-RSA-AES128-GCM-SHA256'. */
  | {
      readonly kind: 'tlsAgreed'
      readonly protocol: string
      readonly cipher: string
      /** The setting of [https] compat without which this suite would not have been agreed on. */
      readonly compat: string | undefined
      /** SHA-256, hex, of the certificate with which the machine proved itself. */
      readonly clientFingerprint: string | undefined
    }
  /** `reason` in words: no common suite, unknown CA, expired, clock wrong. `offered`: versions, suites and name. */
  | {
      readonly kind: 'tlsFailed'
      readonly reason: string
      readonly hint: string
      readonly offered: string | undefined
    }

  // The machine's script
  | {
      readonly kind: 'scriptServed'
      readonly script: ScriptName
      /** Of script `boot`: which boot its credentials are for, and of which image. */
      readonly bootId: string | undefined
      readonly image: string | undefined
      readonly encrypted: boolean
      /** Of script `boot`: what the machine had proved before. Missing in journals of before there were proofs. */
      readonly proof?: ProvedBy | undefined
      /** Of script `boot`: the VLAN that it takes to the disk; undefined: the network that the machine booted from. */
      readonly storageVlan?: number | undefined
      /** Of script `boot`: it starts the kernel at once, without the disk's boot loader. Absent: it boots the disk. */
      readonly start?: 'kernel'
    }
  /** U-Boot's EFI has nowhere to put the iBFT: a Linux that its disk's boot loader starts does not find its root by itself. */
  | { readonly kind: 'rootUndescribed' }
  /** The script said on its way how it goes: `step` is one of the script's own words. */
  | { readonly kind: 'machineReported'; readonly step: string; readonly error: string | undefined }

  // iSCSI
  | {
      readonly kind: 'iscsiLogin'
      readonly sessionId: number
      readonly stage: Stage
      readonly initiatorName: string
      readonly targetName: string | undefined
      readonly isid: string
      readonly bootId: string | undefined
      readonly authentication: 'none' | 'oneWay' | 'mutual'
      /** Undefined without CHAP. */
      readonly algorithm: string | undefined
      /** The initiator offered nothing better than MD5 or SHA-1. Absent where that is not so. */
      readonly downgraded?: boolean
      /** It took the place of a session that a power cut or a restart left behind. */
      readonly reinstated: boolean
    }
  | {
      readonly kind: 'iscsiLoginFailed'
      readonly initiatorName: string | undefined
      readonly targetName: string | undefined
      readonly reason: string
      readonly detail: string
    }
  | { readonly kind: 'firstRead'; readonly sessionId: number }
  | { readonly kind: 'firstWrite'; readonly sessionId: number }
  /** All sessions of the machine together, since its attempt began. */
  | { readonly kind: 'progress'; readonly readBytes: number; readonly writtenBytes: number }
  | {
      readonly kind: 'sessionClosed'
      readonly sessionId: number
      readonly reason: string
      readonly readBytes: number
      readonly writtenBytes: number
    }
  | { readonly kind: 'addressSlowed'; readonly failureCount: number; readonly untilMs: number }

  // The fleet
  | { readonly kind: 'machineSeen'; readonly uuid: string | undefined; readonly serial: string | undefined }
  | { readonly kind: 'held'; readonly reason: string }
  | { readonly kind: 'admitted'; readonly by: 'person' | 'configuration' | 'policy' }
  | { readonly kind: 'refused'; readonly reason: string }
  /** The MAC address came with another UUID: a changed board, or an impostor. */
  | { readonly kind: 'identityAlarm'; readonly knownUuid: string; readonly seenUuid: string }
  /** A certificate that opens nothing. `detail` is OpenSSL's word, where that found the fault. */
  | {
      readonly kind: 'certificateRefused'
      /** SHA-256, hex. */
      readonly fingerprint: string
      readonly reason: 'unknown' | 'ofAnother' | 'revoked' | 'unfit'
      readonly detail: string | undefined
    }
  | { readonly kind: 'signedIn'; readonly account: string }
  /** `account` is undefined for a name that does not exist: it may be a password, typed in the wrong line. */
  | { readonly kind: 'signInFailed'; readonly account: string | undefined }
  | {
      readonly kind: 'signInSlowed'
      readonly by: 'address' | 'account'
      readonly account: string | undefined
      readonly failureCount: number
      readonly waitMs: number
    }
  | { readonly kind: 'credentialsMinted'; readonly bootId: string }
  | { readonly kind: 'credentialsEnded'; readonly bootId: string; readonly reason: 'nextBoot' | 'released' | 'refused' }

  // The machine's disk
  | { readonly kind: 'cloneReady'; readonly image: string; readonly policy: string; readonly path: string | undefined }
  /** What the first good boot of an image version read, in order, is kept with the version. */
  | {
      readonly kind: 'bootTraceRecorded'
      readonly image: string
      readonly readCount: number
      readonly readBytes: number
    }
  /** What a boot will read was brought into memory ahead of its asking. */
  | {
      readonly kind: 'bootTraceFetched'
      readonly image: string
      readonly traceBytes: number
      readonly durationMs: number
    }
  | { readonly kind: 'diskFailed'; readonly operation: string; readonly reason: string; readonly hint: string }

  /** Its firmware finds nothing to start on the image that it boots. `reason` says what to do. */
  | { readonly kind: 'noLoader'; readonly image: string; readonly reason: string }

  // Images that live elsewhere
  /** Its server does not answer; it is tried again all the time. Machines that ask for it wait, then are told that it failed. */
  | { readonly kind: 'imageAway'; readonly image: string; readonly reason: string }
  /** What is fetched of it cannot be kept, or is not what it must be. */
  | { readonly kind: 'imageTrouble'; readonly image: string; readonly reason: string; readonly hint: string }
  | { readonly kind: 'imageBack'; readonly image: string; readonly awayMs: number }

  // Anybody
  /** The boot cannot go on. `step` names where, `hint` what a person does next. */
  | { readonly kind: 'failed'; readonly step: string; readonly reason: string; readonly hint: string }
  /** Bytes that break a protocol. */
  | { readonly kind: 'peerBroken'; readonly protocol: string; readonly detail: string }
  /** It made more noise than is kept. Without a source: of many, who may be one that invents addresses. */
  | { readonly kind: 'eventsLeftOut'; readonly eventCount: number }
  | { readonly kind: 'serviceReady'; readonly service: string; readonly endpoint: string }
  | { readonly kind: 'serviceFailed'; readonly service: string; readonly reason: string; readonly hint: string }
  | { readonly kind: 'stopping' }

/**
 * boot: the disk, with credentials. held: wait for admission. prove: ask again with the certificate. signIn: wait for a person who
 * signs in. refused: go away. local: the firmware's own disk.
 */
export type ScriptName = 'boot' | 'held' | 'prove' | 'signIn' | 'refused' | 'local'

/** What a machine proved before it got secrets. `fingerprint`: SHA-256 of its certificate, hex. */
export type ProvedBy =
  | { readonly kind: 'certificate'; readonly fingerprint: string }
  | { readonly kind: 'login'; readonly account: string }
  | { readonly kind: 'admission' }

/** Whose event it is, as far as is known. */
export type EventSource = {
  readonly mac: Mac | undefined
  /** Where the machine spoke from, dotted. */
  readonly address: string | undefined
}

export type BootEvent = Happening & EventSource & EventStamp

export type EventStamp = {
  /** Counts up by one; never reused, not even across restarts where there is a store. */
  readonly id: number
  /** Milliseconds since 1970-01-01 UTC. */
  readonly atMs: number
}

export type EventKind = Happening['kind']

/** Whose ISID this is (RFC 7143 §11.12.5): initiators can be told apart by the range that they take theirs from. */
export function stageOfIsid(isid: string): Stage {
  // Type 01b, enterprise number 10019: Fen Systems, which is iPXE.
  if (isid.startsWith('40002723')) return 'ipxe'
  // Type 00b with Cisco's OUI 00023d: open-iscsi's.
  if (isid.startsWith('00023d')) return 'system'
  return 'unknown'
}
