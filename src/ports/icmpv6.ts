/** ICMPv6 on one link: what a raw socket on one interface gives. */
export interface Icmpv6Socket {
  /**
   * Sends one ICMPv6 message with hop limit 255 from the interface's link-local address. `bytes` starts with the ICMPv6
   * type; the kernel fills the checksum in. A packet that cannot leave is lost.
   */
  send(bytes: Uint8Array, toAddress: string): void
  close(): void
}

/**
 * `bytes` starts with the ICMPv6 type and is lent until the callback returns; `fromAddress` has no zone. The hop limit
 * was 255, so the sender is on the link (RFC 4861 §6.1.1).
 */
export type Icmpv6Receiver = (bytes: Uint8Array, fromAddress: string) => void

export interface Icmpv6Network {
  /**
   * Receives messages of `types` only, also those to `joinedGroups` ('ff02::2').
   * @throws {OperationError} interfaceUnknown, portForbidden (no CAP_NET_RAW), addressUnknown (IPv6 is off there)
   */
  open(interfaceName: string, terms: Icmpv6Terms, receive: Icmpv6Receiver): Promise<Icmpv6Socket>
}

export type Icmpv6Terms = {
  readonly types: readonly number[]
  readonly joinedGroups: readonly string[]
}
