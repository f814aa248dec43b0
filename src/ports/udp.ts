/** IPv4 for now. `address` is dotted; `port` 0 asks for any free one. */
export interface Endpoint {
  readonly address: string
  readonly port: number
}

export interface UdpBinding {
  readonly address: string
  readonly port: number
  /** Only packets that arrive on this interface, and replies leave through it (SO_BINDTODEVICE). */
  readonly interfaceName?: string
  /** May send to a broadcast address. */
  readonly broadcast?: boolean
  /** Several programs may listen on this port (a DHCP server and a proxyDHCP beside it). */
  readonly reuseAddress?: boolean
  /** Connected: packets of nobody else arrive, and every packet goes there. Sending and receiving cost less. */
  readonly peer?: Endpoint
  /** For a socket with a `peer`: ICMP said that nobody listens there (any more). May come again. */
  readonly peerGone?: () => void
}

export interface UdpSocket {
  readonly local: Endpoint
  /** Bytes are copied before the call returns. A packet that cannot leave is lost, as packets are. */
  send(bytes: Uint8Array, to: Endpoint): void
  close(): void
}

/** `bytes` is lent until the callback returns. */
export type UdpReceiver = (bytes: Uint8Array, from: Endpoint) => void

export interface UdpNetwork {
  /** @throws {OperationError} portTaken, portForbidden, addressUnknown, interfaceUnknown */
  bind(binding: UdpBinding, receive: UdpReceiver): Promise<UdpSocket>
}

/** Tells the kernel which link address an IPv4 address has, so that a client without an address yet can be sent unicast. */
export interface Neighbours {
  /** False if the kernel would not have it: broadcast instead. */
  learn(interfaceName: string, address: string, linkAddress: Uint8Array): boolean
}
