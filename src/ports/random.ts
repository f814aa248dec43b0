/** Bytes nobody can guess. A simulation passes a seeded one. */
export interface Random {
  /** `byteCount` fresh bytes. */
  bytes(byteCount: number): Uint8Array
}
