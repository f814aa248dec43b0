/**
 * Sense data: why a command did not end with GOOD. SPC-4 §4.5.
 *
 * A handler throws `CheckCondition`; the logical unit catches it in one place and encodes it, fixed format (§4.5.3) or,
 * if the initiator asked for it in the control mode page, descriptor format (§4.5.2).
 */
import { putU16, putU32, putU64 } from '../wire/big-endian.ts'

/** `key` says whose affair it is (table 48); `code` is ADDITIONAL SENSE CODE in the high byte, its qualifier in the low. */
export interface Condition {
  readonly key: number
  readonly code: number
}

/**
 * SPC-4 annex F.2, the ones we report. Keys: 0 no sense, 2 not ready, 3 medium error, 4 hardware error, 5 illegal request,
 * 6 unit attention, 7 data protect, Ah copy aborted, Eh miscompare.
 */
export const condition = {
  none: { key: 0x0, code: 0x0000 },
  sanitizeInProgress: { key: 0x2, code: 0x041b },
  stopped: { key: 0x2, code: 0x0402 },
  sanitizeFailed: { key: 0x3, code: 0x3103 },
  writeError: { key: 0x3, code: 0x0c00 },
  readError: { key: 0x3, code: 0x1100 },
  internalTargetFailure: { key: 0x4, code: 0x4400 },
  parameterListLength: { key: 0x5, code: 0x1a00 },
  invalidOpcode: { key: 0x5, code: 0x2000 },
  addressOutOfRange: { key: 0x5, code: 0x2100 },
  invalidFieldInCdb: { key: 0x5, code: 0x2400 },
  unitNotSupported: { key: 0x5, code: 0x2500 },
  invalidFieldInParameters: { key: 0x5, code: 0x2600 },
  invalidRelease: { key: 0x5, code: 0x2604 },
  tooManyTargetDescriptors: { key: 0x5, code: 0x2606 },
  unsupportedTargetDescriptor: { key: 0x5, code: 0x2607 },
  tooManySegmentDescriptors: { key: 0x5, code: 0x2608 },
  unsupportedSegmentDescriptor: { key: 0x5, code: 0x2609 },
  inlineDataTooLong: { key: 0x5, code: 0x260b },
  invalidFieldInInformationUnit: { key: 0x5, code: 0x0e03 },
  savingNotSupported: { key: 0x5, code: 0x3900 },
  removalPrevented: { key: 0x5, code: 0x5302 },
  registrationsExhausted: { key: 0x5, code: 0x5504 },
  insufficientResources: { key: 0x5, code: 0x5503 },
  copyAborted: { key: 0xa, code: 0x0000 },
  copyDeviceFailure: { key: 0xa, code: 0x0d01 },
  copyTargetUnreachable: { key: 0xa, code: 0x0d02 },
  copyTargetTypeIncorrect: { key: 0xa, code: 0x0d03 },
  miscompare: { key: 0xe, code: 0x1d00 },
  writeProtected: { key: 0x7, code: 0x2700 },
  softwareWriteProtected: { key: 0x7, code: 0x2702 },
  spaceAllocationFailed: { key: 0x7, code: 0x2707 },
  powerOnOrReset: { key: 0x6, code: 0x2900 },
  busDeviceReset: { key: 0x6, code: 0x2903 },
  modeParametersChanged: { key: 0x6, code: 0x2a01 },
  reservationsPreempted: { key: 0x6, code: 0x2a03 },
  reservationsReleased: { key: 0x6, code: 0x2a04 },
  registrationsPreempted: { key: 0x6, code: 0x2a05 },
  capacityChanged: { key: 0x6, code: 0x2a09 },
  commandsCleared: { key: 0x6, code: 0x2f00 },
} as const

/** Which field of the CDB or of the parameter list is wrong. SPC-4 §4.5.2.4.2. */
export interface FieldPointer {
  readonly where: 'cdb' | 'parameters'
  readonly byte: number
  /** Leftmost bit of the field, when it is part of a byte. */
  readonly bit?: number
}

export interface SenseDetail {
  readonly field?: FieldPointer
  /** INFORMATION: an LBA, or the offset of a miscompare. */
  readonly information?: number
  /** PROGRESS INDICATION, of 65536. */
  readonly progress?: number
  /** What the command would have moved: the transport's residual. */
  readonly bytesWanted?: number
}

/** The initiator's command cannot be done as it asked. Its fault or the medium's; never thrown for a mistake of ours. */
export class CheckCondition extends Error {
  override readonly name: string = 'CheckCondition'
  readonly condition: Condition
  readonly detail: SenseDetail

  constructor(what: Condition, detail: SenseDetail = {}) {
    super(`sense ${what.key.toString(16)}/${what.code.toString(16).padStart(4, '0')}`)
    this.condition = what
    this.detail = detail
  }
}

export function invalidCdbField(byte: number, bit?: number): CheckCondition {
  return new CheckCondition(condition.invalidFieldInCdb, { field: pointer('cdb', byte, bit) })
}

export function invalidParameter(byte: number, bit?: number): CheckCondition {
  return new CheckCondition(condition.invalidFieldInParameters, { field: pointer('parameters', byte, bit) })
}

function pointer(where: FieldPointer['where'], byte: number, bit: number | undefined): FieldPointer {
  return bit === undefined ? { where, byte } : { where, byte, bit }
}

export function encodeSense(what: Condition, detail: SenseDetail, descriptorFormat: boolean): Uint8Array {
  return descriptorFormat ? encodeDescriptors(what, detail) : encodeFixed(what, detail)
}

/**
 * SPC-4 table 51:  0 valid|70h | 2 key | 3..6 information | 7 additional length | 12 ASC | 13 ASCQ | 15..17 key specific
 */
function encodeFixed(what: Condition, detail: SenseDetail): Uint8Array {
  const bytes = new Uint8Array(18)
  bytes[0] = 0x70
  bytes[2] = what.key
  bytes[7] = bytes.length - 8
  putU16(bytes, 12, what.code)
  // Four bytes only: a value that does not fit leaves VALID at zero. SPC-4 §4.5.3.
  if (detail.information !== undefined && detail.information <= 0xffff_ffff) {
    bytes[0] |= 0x80
    putU32(bytes, 3, detail.information)
  }
  putKeySpecific(bytes, 15, detail)
  return bytes
}

/** SPC-4 table 28:  0 72h | 1 key | 2 ASC | 3 ASCQ | 7 additional length | 8.. descriptors */
function encodeDescriptors(what: Condition, detail: SenseDetail): Uint8Array {
  const hasKeySpecific = detail.field !== undefined || detail.progress !== undefined
  const informationBytes = detail.information === undefined ? 0 : 12
  const bytes = new Uint8Array(8 + informationBytes + (hasKeySpecific ? 8 : 0))
  bytes[0] = 0x72
  bytes[1] = what.key
  putU16(bytes, 2, what.code)
  bytes[7] = bytes.length - 8
  if (detail.information !== undefined) {
    // Table 31: type 00h, length 0Ah, VALID.
    bytes[9] = 0x0a
    bytes[10] = 0x80
    putU64(bytes, 12, detail.information)
  }
  if (hasKeySpecific) {
    const at = 8 + informationBytes
    // Table 34: type 02h, length 06h.
    bytes[at] = 0x02
    bytes[at + 1] = 0x06
    putKeySpecific(bytes, at + 4, detail)
  }
  return bytes
}

/** Tables 36 and 38: SKSV | C/D | BPV | bit, then the field's byte; or SKSV, then progress. */
function putKeySpecific(bytes: Uint8Array, at: number, detail: SenseDetail): void {
  const { field, progress } = detail
  if (field !== undefined) {
    bytes[at] = 0x80 | (field.where === 'cdb' ? 0x40 : 0) | (field.bit === undefined ? 0 : 0x08 | field.bit)
    putU16(bytes, at + 1, field.byte)
  } else if (progress !== undefined) {
    bytes[at] = 0x80
    putU16(bytes, at + 1, progress)
  }
}
