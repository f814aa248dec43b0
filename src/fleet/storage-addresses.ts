/**
 * Which address a machine has on the storage VLAN. Each keeps its own for good, for it is written into its iBFT and used as
 * long as it is up: a lease that ends, or an address that goes to another, would cut a running machine off from its disk.
 */

export type StorageAddressTerms = {
  /** IPv4 addresses as numbers, both included. */
  readonly range: { readonly first: number; readonly last: number }
  /** The server's own. */
  readonly reserved: number
}

/** `known` is what the machine had; `taken` what all have. Undefined: none is left. */
export function chooseStorageAddress(
  { range, reserved }: StorageAddressTerms,
  known: number | undefined,
  taken: ReadonlySet<number>,
): number | undefined {
  if (known !== undefined && known >= range.first && known <= range.last && known !== reserved) return known
  for (let address = range.first; address <= range.last; address++) {
    if (address !== reserved && !taken.has(address)) return address
  }
  return undefined
}
