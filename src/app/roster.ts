/**
 * What was heard of each machine lately: what its firmware said of itself by DHCP, which address it has, when it fetched a
 * loader. Kept in memory only: a machine that asks says it all again.
 */
import type { Mac } from '../base/address.ts'
import type { Client } from '../boot/client.ts'
import type { Clock } from '../ports/clock.ts'

type Entry = {
  client: Client | undefined
  address: string | undefined
  loaderFetchedMs: number | undefined
  /** Its firmware, before any iPXE, said that it is a U-Boot. */
  isUboot: boolean
}

/** A flood of invented MAC addresses makes the machine heard longest ago forgotten, and costs it nothing but a repeat. */
const machinesMax = 8_192
/** An iPXE that asks again within this time of fetching a loader is that loader: it boots in seconds. */
const loaderTriedMs = 120_000

export class Roster {
  readonly #clock: Clock
  readonly #linkAddressOf: (address: string) => Mac | undefined
  /** Heard longest ago first. */
  readonly #entries = new Map<Mac, Entry>()
  readonly #macByAddress = new Map<string, Mac>()

  /** `linkAddressOf` asks the kernel, for addresses that another DHCP server handed out. */
  constructor(clock: Clock, linkAddressOf: (address: string) => Mac | undefined) {
    this.#clock = clock
    this.#linkAddressOf = linkAddressOf
  }

  heard(client: Client): void {
    const entry = this.#entry(client.mac)
    entry.client = client
    const { kind } = client.program
    if (kind === 'uboot' || kind === 'pxe' || kind === 'uefiHttp') entry.isUboot = kind === 'uboot'
  }

  hasAddress(mac: Mac, address: string): void {
    const entry = this.#entry(mac)
    if (entry.address !== undefined && entry.address !== address) this.#macByAddress.delete(entry.address)
    entry.address = address
    this.#macByAddress.set(address, mac)
  }

  fetchedLoader(mac: Mac): void {
    this.#entry(mac).loaderFetchedMs = this.#clock.nowMs()
  }

  clientOf(mac: Mac): Client | undefined {
    return this.#entries.get(mac)?.client
  }

  isUboot(mac: Mac): boolean {
    return this.#entries.get(mac)?.isUboot ?? false
  }

  loaderWasTried(mac: Mac): boolean {
    const fetchedMs = this.#entries.get(mac)?.loaderFetchedMs
    return fetchedMs !== undefined && this.#clock.nowMs() - fetchedMs < loaderTriedMs
  }

  /** The machine that speaks from an IPv4 address. A claim, like every MAC address. */
  macOf(address: string): Mac | undefined {
    const known = this.#macByAddress.get(address)
    if (known !== undefined) return known
    const mac = this.#linkAddressOf(address)
    if (mac !== undefined) this.hasAddress(mac, address)
    return mac
  }

  #entry(mac: Mac): Entry {
    const entry = this.#entries.get(mac) ?? {
      client: undefined,
      address: undefined,
      loaderFetchedMs: undefined,
      isUboot: false,
    }
    this.#entries.delete(mac)
    this.#entries.set(mac, entry)
    if (this.#entries.size > machinesMax) this.#forgetOldest()
    return entry
  }

  #forgetOldest(): void {
    const [oldest] = this.#entries
    if (oldest === undefined) return
    const [mac, entry] = oldest
    this.#entries.delete(mac)
    if (entry.address !== undefined && this.#macByAddress.get(entry.address) === mac) {
      this.#macByAddress.delete(entry.address)
    }
  }
}
