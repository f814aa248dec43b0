/** The protocol's numbers: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, section "Values". */

export const magic = {
  /** 'NBDMAGIC' and 'IHAVEOPT', which begin the newstyle handshake. */
  greeting: 0x4e42_444d_4147_4943n,
  options: 0x4948_4156_454f_5054n,
  /** Follows 'NBDMAGIC' in the oldstyle handshake. */
  oldstyle: 0x0000_4202_8186_1253n,
  optionReply: 0x0003_e889_0455_65a9n,
  request: 0x2560_9513,
  simpleReply: 0x6744_6698,
  structuredReply: 0x668e_33ef,
} as const

export const handshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const

export const option = {
  exportName: 1,
  abort: 2,
  startTls: 5,
  go: 7,
  structuredReply: 8,
  setMetaContext: 10,
} as const

export const optionReply = {
  ack: 1,
  info: 3,
  metaContext: 4,
  unsupported: 0x8000_0001,
  policy: 0x8000_0002,
  invalid: 0x8000_0003,
  platform: 0x8000_0004,
  tlsRequired: 0x8000_0005,
  unknown: 0x8000_0006,
  shutdown: 0x8000_0007,
  blockSizeRequired: 0x8000_0008,
  tooBig: 0x8000_0009,
  extendedHeadersRequired: 0x8000_000a,
} as const

export const info = { export: 0, name: 1, description: 2, blockSize: 3 } as const

export const transmissionFlag = {
  hasFlags: 0x1,
  readOnly: 0x2,
  sendFlush: 0x4,
  sendFua: 0x8,
  sendTrim: 0x20,
  sendWriteZeroes: 0x40,
  canMultiConn: 0x100,
} as const

export const command = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, writeZeroes: 6, blockStatus: 7 } as const

export const commandFlag = { fua: 0x1, noHole: 0x2, reqOne: 0x8 } as const

export const chunkFlag = { done: 1 } as const

export const chunkType = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: 0x8001,
  errorOffset: 0x8002,
} as const

/** Bit 15: whatever else it is, it is an error. */
export const chunkErrorBit: number = 0x8000

/** Of the context `base:allocation`. */
export const extentState = { hole: 1, zero: 2 } as const
export const allocationContext = 'base:allocation'

export const nbdError = {
  permission: 1,
  io: 5,
  memory: 12,
  invalid: 22,
  noSpace: 28,
  overflow: 75,
  notSupported: 95,
  shutdown: 108,
} as const

export const portDefault = 10_809
