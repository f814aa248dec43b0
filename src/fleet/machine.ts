/** A machine as Slipway remembers it, and the decision whether it may boot. */
import type { Mac } from '../base/address.ts'
import { serialCharactersMax } from './limits.ts'

/** What a machine claims to be. All of it is a claim: none of it is proof. */
export type Identity = {
  readonly mac: Mac
  /** SMBIOS UUID, lower case with dashes. All zeroes (U-Boot, QEMU without -uuid) is no identity: use `uuidOf`. */
  readonly uuid: string | undefined
  /** SMBIOS serial number. */
  readonly serial: string | undefined
}

/** What a request says of who asks. */
export type Claim = Identity & {
  /** It asks for a script with secrets, which a machine that has a UUID does by its UUID. Early stages of a boot need not. */
  readonly forSecrets?: boolean
}

/** Stands for a UUID where none is told: as a rival, or as what a person accepted of a machine that tells none. */
export const noUuid = 'none'

/** What a person, or the configuration, said about this machine. The policy decides about the undecided. */
export type Decision = 'undecided' | 'admitted' | 'refused'

/** For machines nobody decided about: ask holds them, all lets them in, none answers them with silence. */
export type AdmissionPolicy = 'ask' | 'all' | 'none'

/** What follows for one request: `held` machines are told to wait, `refused` ones to go away. */
export type Standing = 'admitted' | 'held' | 'refused'

/**
 * ephemeral: a fresh clone at each boot. persistent: one clone, kept. readOnly: the image itself, writes refused.
 */
export type ClonePolicy = 'ephemeral' | 'persistent' | 'readOnly'

export type Assignment = {
  /** A name of the catalogue. */
  readonly image: string
  /** Undefined: the published one, looked up at each boot. */
  readonly version: number | undefined
  /** Undefined: what is said of the image, and if nothing is, of all machines. */
  readonly clonePolicy: ClonePolicy | undefined
}

/**
 * How scripts may travel, since they carry the boot's credentials. strict: by TLS or not at all. auto: by TLS where the
 * loader can, else open. open: never by TLS.
 */
export type TransportPolicy = 'strict' | 'auto' | 'open'

export type Machine = {
  readonly mac: Mac
  /** What people call it. */
  readonly name: string | undefined
  /** `noUuid`: a person said that it tells none, so that its MAC address alone counts. */
  readonly uuid: string | undefined
  readonly serial: string | undefined
  readonly decision: Decision
  /** Another UUID (or `noUuid`) that came with this MAC and that nobody has accepted: a changed board, or an impostor. */
  readonly rivalUuid: string | undefined
  /** Undefined: what the configuration assigns to every machine. */
  readonly assignment: Assignment | undefined
  /** Undefined: what the configuration says for every machine. */
  readonly transport: TransportPolicy | undefined
  /** Whether the iPXE that last asked for its script said that it has HTTPS. Undefined: none has said anything yet. */
  readonly loaderHasHttps: boolean | undefined
  readonly firstSeenMs: number
  readonly lastSeenMs: number
}

/** What was noticed on meeting a machine, for the journal. */
export type Notice =
  | { readonly kind: 'firstSeen' }
  /** `known` stays what is remembered; `seen` must be accepted by a person. */
  | { readonly kind: 'uuidChanged'; readonly known: string; readonly seen: string }

/** A UUID that tells one machine from another, in the one form used everywhere; undefined if it does not. */
export function uuidOf(text: string | undefined): string | undefined {
  const uuid = text?.trim().toLowerCase()
  if (uuid === undefined || !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuid)) return undefined
  // All zeroes: no SMBIOS UUID. All ones: "present but not set" (SMBIOS 3.0 §7.2.1).
  return /^[0-]+$/.test(uuid) || /^[f-]+$/.test(uuid) ? undefined : uuid
}

/** A serial number that tells one machine from another. Boards without one say so in words, and all in the same. */
export function serialOf(text: string | undefined): string | undefined {
  const serial = text?.trim()
  if (serial === undefined || serial === '' || serial.length > serialCharactersMax) return undefined
  if (!/^[\x21-\x7e]+( [\x21-\x7e]+)*$/.test(serial)) return undefined
  return /^(0+|none|not specified|default string|system serial number|to be filled by o\.e\.m\.)$/i.test(serial)
    ? undefined
    : serial
}

/**
 * Some firmware sends the first three fields of option 97 big-endian and some little-endian (SMBIOS 2.6 changed the rule),
 * and stages of one boot need not agree. The two forms are one machine.
 */
export function sameUuid(a: string, b: string): boolean {
  return a === b || a === swapUuidFields(b)
}

function swapUuidFields(uuid: string): string {
  const swap = (hex: string): string => (hex.match(/../g) ?? []).reverse().join('')
  return uuid
    .split('-')
    .map((field, index) => (index < 3 ? swap(field) : field))
    .join('-')
}
