/** What the room asks of the rest of the house: a decision, a place to keep leases, an ear for what happened. */
import type { Mac } from '../base/address.ts'
import type { ClientFacts } from './client-facts.ts'

/** Decides what a machine boots. `app` plugs `fleet` and `boot` in. */
export interface BootAdvisor {
  /**
   * Asked for every packet that would be answered, so repeated for one boot: must be quick, and give the same answer
   * to the same question unless something changed in between (a person admitted the machine).
   */
  answer(client: ClientFacts, where: BootQuestion): BootAnswer
}

export type BootQuestion = {
  /** Our address on the client's network, dotted: what goes into URLs. */
  readonly serverAddress: string
  /** The client's own address, dotted, where we know it: never for a proxy's first offer. */
  readonly clientAddress: string | undefined
  /** True when another server hands out the addresses. */
  readonly proxy: boolean
}

export type BootAnswer =
  | {
      readonly kind: 'boot'
      /**
       * A name that TFTP serves, or a URL. What suits the client is the advisor's business; which of the fields and
       * options the client reads is this room's. 1 to 1024 characters, ASCII.
       */
      readonly bootFile: string
      /** Who serves `bootFile` by TFTP, dotted. Default: our own address on the client's network. */
      readonly nextServer?: string
      /** Option 17. RFC 4173 for iSCSI. */
      readonly rootPath?: string
      /** Option 12. */
      readonly hostName?: string
      /** A menu that PXE firmware shows by itself. Only for programs of kind 'pxe'. */
      readonly menu?: PxeMenu
    }
  /** An address and nothing to boot. A proxy says nothing at all. */
  | { readonly kind: 'addressOnly'; readonly hostName?: string }
  /** Not a word, not even an address. */
  | { readonly kind: 'ignore' }

/** PXE 2.1 §2.2.2: options 8, 9 and 10 inside option 43. */
export type PxeMenu = {
  readonly prompt: string
  /** After which the first entry is taken. 0: at once, 255: never. */
  readonly timeoutSeconds: number
  readonly entries: readonly PxeMenuEntry[]
}

export type PxeMenuEntry = {
  /** 0 is "boot from the local disk"; others are asked for on port 4011 with this number. */
  readonly bootServerType: number
  readonly label: string
  /** What it loads, by TFTP from us. Undefined for type 0. */
  readonly bootFile: string | undefined
}

/** A lease as it is kept. */
export type StoredLease = {
  readonly mac: Mac
  /** IPv4, unsigned. */
  readonly address: number
  /**
   * bound: the machine may use it until it expires. released: the machine gave it back; remembered, so that it gets the
   * same one again. declined: somebody else was seen using it.
   */
  readonly kind: 'bound' | 'released' | 'declined'
  /** Seconds since 1970. */
  readonly expiresAtSeconds: number
}

/** Where leases outlive the process. */
export interface LeaseStore {
  /** Everything kept; of several entries for one address the last one counts. @throws {OperationError} */
  load(): Promise<readonly StoredLease[]>
  /**
   * Keeps all of `batch`. When it returns undefined, or its promise resolves, the leases survive kill -9 (they have
   * reached the kernel); only then is the machine told that the address is its own. `batch` is lent until then.
   * Called again only after the one before has finished. @throws {OperationError}
   */
  commit(batch: readonly StoredLease[]): Promise<void> | undefined
}

/** Keeps nothing: for tests, and for a proxy, which has no leases. */
export const forgetfulLeaseStore: LeaseStore = {
  load: () => Promise.resolve([]),
  commit: () => undefined,
}

/** What happened. Never throws, never waits. */
export interface DhcpEvents {
  emit(event: DhcpEvent): void
}

export type DhcpEvent =
  /** `address` is what was offered; undefined from a proxy. */
  | {
      readonly kind: 'offered'
      readonly client: ClientFacts
      readonly address: string | undefined
      readonly bootFile: string | undefined
    }
  /** The machine may now use the address; kept before this was said. */
  | {
      readonly kind: 'leased'
      readonly client: ClientFacts
      readonly address: string
      readonly bootFile: string | undefined
    }
  /** A boot server request on port 4011, answered. */
  | { readonly kind: 'bootServerAnswered'; readonly client: ClientFacts; readonly bootFile: string }
  | { readonly kind: 'refused'; readonly mac: Mac; readonly address: string; readonly reason: RefusalReason }
  | { readonly kind: 'declined'; readonly mac: Mac; readonly address: string }
  | { readonly kind: 'released'; readonly mac: Mac; readonly address: string }
  | { readonly kind: 'poolExhausted'; readonly mac: Mac }
  | { readonly kind: 'otherServerChosen'; readonly mac: Mac; readonly server: string }
  /** Bytes that are no DHCP packet, and where decoding stopped. At most `malformedEventsPerSecondMax` a second. */
  | { readonly kind: 'malformed'; readonly from: string; readonly reason: string }
  | { readonly kind: 'storeFailed'; readonly reason: string }
  /** An iPXE asked for a router; told that there is none, so that it does not wait. */
  | { readonly kind: 'routerSolicitationAnswered'; readonly linkLocalAddress: string }

export type RefusalReason = 'wrongNetwork' | 'notYours' | 'taken'
