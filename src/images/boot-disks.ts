/** Which clone the boot of a machine that is up uses: after a restart of Slipway it must find that one and no other. */
export type BootDisk = {
  readonly bootId: string
  /** Of the clone, in the directory of clones. */
  readonly file: string
  /** What the clone policy was when the boot began; another one counts from the next boot. */
  readonly policy: string
}

export interface BootDiskStore {
  bootDisk(mac: string): BootDisk | undefined
  /** Kept past kill -9 when it returns. */
  setBootDisk(mac: string, disk: BootDisk): void
}
