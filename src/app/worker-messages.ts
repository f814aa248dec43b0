/** What the portal and its workers say to each other, as plain data. Secrets are bare here: it goes through a pipe of our own. */
import { Secret } from '../base/secret.ts'
import type { Authentication, ChapCredential } from '../iscsi/policy.ts'
import type { Endpoint } from '../ports/udp.ts'
import type { DiskEvent, ServeOptions } from './served-disks.ts'

export type ToWorker = { readonly kind: 'serve'; readonly options: WireOptions } | { readonly kind: 'stop' }

export type FromWorker =
  | { readonly kind: 'ready'; readonly local: Endpoint; readonly sizesBytes: readonly number[] }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string; readonly hint: string }
  | { readonly kind: 'event'; readonly event: DiskEvent }

type WireCredential = { readonly user: string; readonly secret: string }
type WireOptions = Omit<ServeOptions, 'authentication'> & {
  /** Undefined: nothing is to be proved. */
  readonly chap?: {
    readonly initiator: readonly (WireCredential & { readonly target?: WireCredential })[]
    readonly mutualRequired?: boolean
  }
}

export function toWire({ authentication, ...rest }: ServeOptions): WireOptions {
  if (authentication.kind === 'none') return rest
  const initiator = authentication.initiator.map(({ target, ...own }) => {
    return { ...bare(own), ...(target === undefined ? {} : { target: bare(target) }) }
  })
  const { mutualRequired } = authentication
  return { ...rest, chap: { initiator, ...(mutualRequired === undefined ? {} : { mutualRequired }) } }
}

export function fromWire({ chap, ...rest }: WireOptions): ServeOptions {
  if (chap === undefined) return { ...rest, authentication: { kind: 'none' } }
  const initiator = chap.initiator.map(({ target, ...own }) => {
    return { ...hidden(own), ...(target === undefined ? {} : { target: hidden(target) }) }
  })
  const authentication: Authentication = { kind: 'chap', ...chap, initiator }
  return { ...rest, authentication }
}

function bare({ user, secret }: ChapCredential): WireCredential {
  return { user, secret: secret.reveal() }
}

function hidden({ user, secret }: WireCredential): ChapCredential {
  return { user, secret: new Secret(secret) }
}
