/** Serial number arithmetic of RFC 1982 on 32 bits, for CmdSN, StatSN and their kin: RFC 7143 §4.2.2. */

/** Whether `a` comes before `b`. */
export function isBefore(a: number, b: number): boolean {
  return ((a - b) | 0) < 0
}

export function after(serial: number, count: number = 1): number {
  return (serial + count) >>> 0
}
