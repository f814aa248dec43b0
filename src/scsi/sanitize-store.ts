/** What this room asks of the house: a place where it stands that a disk is being sanitized, and is not yet. SBC-3 §4.11. */

/** A SANITIZE that has begun, and has not ended well. Plain JSON. */
export interface SavedSanitize {
  /** AUSE: its failure may be left without another. */
  readonly mayBeLeft: boolean
}

export interface SanitizeStore {
  /** What was saved last, read before the disk is served. */
  readonly saved: SavedSanitize | undefined
  /** Resolves when it is on stable storage; undefined forgets. Calls never overlap. @throws {OperationError} */
  save(sanitize: SavedSanitize | undefined): Promise<void>
}
