/**
 * UEFI without an authority enrolled does not connect to an https:// address at all: it says so on its screen, and here
 * nothing is heard. So what does not come is the event.
 */
import type { Mac } from '../base/address.ts'
import type { Happening } from '../journal/events.ts'
import type { Clock, Timer } from '../ports/clock.ts'

/** After the last word of DHCP: OVMF takes its time with the offer (3.9 s), then connects at once. */
const comesWithinMs = 20_000
/** Machines that are waited for at once; more are not waited for. */
const machineCountMax = 1_000

export class FirmwareHttps {
  readonly #clock: Clock
  readonly #say: (mac: Mac, happening: Happening) => void
  readonly #awaited = new Map<Mac, Timer>()

  constructor(clock: Clock, say: (mac: Mac, happening: Happening) => void) {
    this.#clock = clock
    this.#say = say
  }

  /** A firmware was told to fetch its loader by HTTPS. */
  told(mac: Mac): void {
    this.#awaited.get(mac)?.cancel()
    if (this.#awaited.size >= machineCountMax && !this.#awaited.has(mac)) return
    const timer = this.#clock.after(comesWithinMs, () => {
      this.#awaited.delete(mac)
      this.#say(mac, {
        kind: 'failed',
        step: 'HTTPS',
        reason: 'its firmware was told to fetch its loader by HTTPS and did not come: no authority is enrolled in it',
        hint: 'Enroll ours in its setup (slipway ca export FILE --format efi), or set uefi = false under [https].',
      })
    })
    this.#awaited.set(mac, timer)
  }

  /** It speaks TLS with us, however that ends. */
  came(mac: Mac): void {
    this.#awaited.get(mac)?.cancel()
    this.#awaited.delete(mac)
  }

  close(): void {
    for (const timer of this.#awaited.values()) timer.cancel()
    this.#awaited.clear()
  }
}
