/**
 * The credentials of one boot: minted when its script is handed out, useless after the next boot.
 *
 *   minted ──▶ offered ──first login with them──▶ active ──another offer's first login──▶ gone
 *                 └──── too many, or too old ────▶ gone        └──── released ──────────▶ gone
 *
 * Whoever can fetch a machine's script (any host that invents its MAC address, where the transport is open) makes us mint.
 * So minting alone takes nothing away from the machine that is running: its credentials end when new ones have been
 * used, not when they have been asked for.
 */
import type { Mac } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { Secret } from '../base/secret.ts'
import { offeredCredentialsMax, offerValidMs } from './limits.ts'
import type { Proof } from './proof.ts'

export type Credential = {
  readonly user: string
  readonly secret: Secret
}

export type BootCredentials = {
  /** Names the boot in events. No secret, and not derived from one. */
  readonly bootId: string
  readonly mac: Mac
  readonly initiatorName: string
  readonly targetName: string
  /** What the machine proves to us. */
  readonly initiator: Credential
  /** What we prove to the machine (mutual CHAP). Never the same secret: RFC 7143 §9.2.1. */
  readonly target: Credential
  readonly mintedMs: number
  /** What the machine had proved before it was given these. */
  readonly proof: Proof
  /** From which address they were asked for, where that is known. */
  readonly askedFrom?: string | undefined
}

/** All credentials that one machine may use now. Kept, so that a restart of Slipway does not lock a running machine out. */
export type CredentialRing = {
  readonly active: BootCredentials | undefined
  /** Oldest first. */
  readonly offered: readonly BootCredentials[]
}

export const emptyRing: CredentialRing = { active: undefined, offered: [] }

/** 16 characters: 80 bits, over the 12 that initiators ask for and within the 16 that all of them take. */
const credentialCharacters = 16
const bootIdCharacters = 8
/** How many random bytes `mint` takes. */
export const mintBytes: number = 4 * 10 + 5

export type Names = { readonly initiatorName: string; readonly targetName: string }

export type MintTerms = {
  readonly mac: Mac
  readonly names: Names
  readonly proof: Proof
  /** `mintBytes` bytes that nobody can guess. */
  readonly random: Uint8Array
  readonly nowMs: number
  readonly askedFrom?: string | undefined
}

export function mint({ mac, names, proof, random, nowMs, askedFrom }: MintTerms): BootCredentials {
  assert(random.byteLength === mintBytes, 'minting takes exactly mintBytes')
  const text = base32(random)
  const part = (index: number): string => text.slice(index * credentialCharacters, (index + 1) * credentialCharacters)
  return {
    bootId: text.slice(4 * credentialCharacters, 4 * credentialCharacters + bootIdCharacters).toLowerCase(),
    mac,
    initiatorName: names.initiatorName,
    targetName: names.targetName,
    initiator: { user: part(0), secret: new Secret(part(1)) },
    target: { user: part(2), secret: new Secret(part(3)) },
    mintedMs: nowMs,
    proof,
    ...(askedFrom === undefined ? {} : { askedFrom }),
  }
}

export function offer(ring: CredentialRing, minted: BootCredentials, nowMs: number): CredentialRing {
  const offered = [...current(ring.offered, nowMs), minted]
  // Who asks over and over makes room at its own cost: the newest of each address goes last.
  while (offered.length > offeredCredentialsMax) {
    const repeated = offered.findIndex(({ askedFrom }, index) =>
      offered.some((later, at) => at > index && later.askedFrom === askedFrom),
    )
    offered.splice(Math.max(repeated, 0), 1)
  }
  return { active: ring.active, offered }
}

/** What a login may be made with, likeliest first. */
export function candidates(ring: CredentialRing, nowMs: number): readonly BootCredentials[] {
  const offered = current(ring.offered, nowMs).reverse()
  return ring.active === undefined ? offered : [...offered, ring.active]
}

/** A boot whose script was handed out and that has not logged in yet. */
export function offeredBoot(ring: CredentialRing, bootId: string, nowMs: number): BootCredentials | undefined {
  return current(ring.offered, nowMs).find((boot) => boot.bootId === bootId)
}

export type Use = {
  readonly ring: CredentialRing
  /** The boot that the login belongs to. */
  readonly boot: BootCredentials | undefined
  /** Set when this login began a new boot: these credentials have ended, and so must their sessions. */
  readonly ended: BootCredentials | undefined
}

/** A login was proven with `user`'s secret. */
export function use(ring: CredentialRing, user: string): Use {
  if (ring.active?.initiator.user === user) return { ring, boot: ring.active, ended: undefined }
  const index = ring.offered.findIndex((boot) => boot.initiator.user === user)
  const boot = ring.offered[index]
  if (boot === undefined) return { ring, boot: undefined, ended: undefined }
  // Scripts handed out before this one belong to boots that never came to a login; later ones may be this machine's next.
  return { ring: { active: boot, offered: ring.offered.slice(index + 1) }, boot, ended: ring.active }
}

/** Whether what that boot was given is still worth anything. */
export function holds(ring: CredentialRing, bootId: string): boolean {
  return ring.active?.bootId === bootId || ring.offered.some((boot) => boot.bootId === bootId)
}

/** Without the boots that began with a proof that counts no more. */
export function without(ring: CredentialRing, isVoid: (proof: Proof) => boolean): CredentialRing {
  const active = ring.active !== undefined && isVoid(ring.active.proof) ? undefined : ring.active
  return { active, offered: ring.offered.filter(({ proof }) => !isVoid(proof)) }
}

function current(offered: readonly BootCredentials[], nowMs: number): BootCredentials[] {
  return offered.filter((boot) => nowMs - boot.mintedMs <= offerValidMs)
}

/** RFC 4648 §6, without padding: 5 bytes become 8 characters. */
export function base32(bytes: Uint8Array): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'
  let text = ''
  let bits = 0
  let bitCount = 0
  for (const byte of bytes) {
    bits = (bits << 8) | byte
    bitCount += 8
    while (bitCount >= 5) {
      bitCount -= 5
      text += alphabet.charAt((bits >>> bitCount) & 31)
    }
    bits &= (1 << bitCount) - 1
  }
  return bitCount === 0 ? text : text + alphabet.charAt((bits << (5 - bitCount)) & 31)
}
