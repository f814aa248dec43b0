/**
 * Mode pages: what an initiator may see and change of the unit's behaviour. SPC-4 §7.5, SBC-3 §6.5.
 *
 * Nothing is saved: after a restart the defaults hold. Each page is rendered from `ModeState`, and the changeable mask
 * says which bits MODE SELECT may set.
 */

/** What the initiators, all together, have set. */
export interface ModeState {
  /** WCE: a write may be acknowledged before it is on stable storage. When false every write is flushed. */
  writeCacheEnabled: boolean
  /** SWP: writes are refused until it is cleared. */
  softwareWriteProtect: boolean
  /** D_SENSE: sense data in descriptor format. */
  descriptorSense: boolean
}

export function defaultMode(): ModeState {
  return { writeCacheEnabled: true, softwareWriteProtect: false, descriptorSense: false }
}

export interface ModePage {
  readonly page: number
  readonly subpage: number
  /** Page code and length included, PS clear. */
  render(state: ModeState): Uint8Array
  /** Ones where MODE SELECT may change something, from byte 0 of the page. */
  readonly changeable: Uint8Array
  /** Takes the changeable bits of a page that MODE SELECT brought; all other bits are as they were. */
  apply(state: ModeState, bytes: Uint8Array): ModeState
}

/** SBC-3 §6.5.4, caching. Byte 2: IC ABPF CAP DISC SIZE WCE MF RCD. */
const caching: ModePage = {
  page: 0x08,
  subpage: 0,
  render: (state) => {
    const bytes = new Uint8Array(20)
    bytes[0] = 0x08
    bytes[1] = 0x12
    bytes[2] = state.writeCacheEnabled ? 0x04 : 0
    return bytes
  },
  changeable: mask(20, { 2: 0x04 }),
  apply: (state, bytes) => ({ ...state, writeCacheEnabled: ((bytes[2] as number) & 0x04) !== 0 }),
}

/**
 * SPC-4 §7.5.10, control. Byte 2: TST TMF_ONLY DPICZ D_SENSE GLTSD RLEC; byte 3: queue algorithm 1h, tasks without an
 * order of their own may be reordered; byte 4: RAC, UA_INTLCK_CTRL, SWP; byte 5: TAS is 0, tasks that somebody else's
 * reset aborts end in silence and a unit attention tells of it; bytes 8 and 9: no limit to being busy.
 */
const control: ModePage = {
  page: 0x0a,
  subpage: 0,
  render: (state) => {
    const bytes = new Uint8Array(12)
    bytes[0] = 0x0a
    bytes[1] = 0x0a
    bytes[2] = (state.descriptorSense ? 0x04 : 0) | 0x02
    bytes[3] = 0x10
    bytes[4] = state.softwareWriteProtect ? 0x08 : 0
    bytes[8] = 0xff
    bytes[9] = 0xff
    return bytes
  },
  changeable: mask(12, { 2: 0x04, 4: 0x08 }),
  apply: (state, bytes) => ({
    ...state,
    descriptorSense: ((bytes[2] as number) & 0x04) !== 0,
    softwareWriteProtect: ((bytes[4] as number) & 0x08) !== 0,
  }),
}

/** In the order in which MODE SENSE returns all of them. */
export const modePages: readonly ModePage[] = [caching, control]

function mask(bytes: number, bits: Readonly<Record<number, number>>): Uint8Array {
  const result = new Uint8Array(bytes)
  for (const [at, value] of Object.entries(bits)) result[Number(at)] = value
  return result
}
