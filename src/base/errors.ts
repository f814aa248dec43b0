/**
 * The world said no: a port is taken, a disk is full, a file is not there. Not a peer's bad bytes (`WireError`)
 * and not our own mistake (`AssertionError`).
 */
export class OperationError extends Error {
  override readonly name: string = 'OperationError'
  /** Stable, for tests and `--json-events`: 'portTaken', 'imageUnreadable'. */
  readonly code: string
  /** What the person at the keyboard does next. A sentence. */
  readonly hint: string

  constructor(code: string, message: string, hint: string, options?: { readonly cause?: unknown }) {
    super(message, options)
    this.code = code
    this.hint = hint
  }
}

/** The words of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
