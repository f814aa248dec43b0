/** What would break in an image's system after its kernel has started, and what to do about it. */
export interface ImageFinding {
  readonly level: 'ok' | 'warning' | 'error'
  /** Stable, for tests and --json: 'initramfs.iscsi', 'root.device'. */
  readonly check: string
  readonly what: string
  /** Empty where all is well. */
  readonly whyItMatters: string
  /** A command inside the image's system, or an edit. */
  readonly doNext: string
  /** The same as changes to files, where those alone do it: `slipway image check --fix`. */
  readonly repairs?: readonly Repair[]
}

/** Several findings may change one file: each edits what the one before it left. */
export type Repair =
  /** A text, '' if it is not there yet. */
  | { readonly kind: 'edit'; readonly partition: number; readonly path: string; edit(text: string): string }
  /** A file of a FAT volume under another name of that volume. */
  | { readonly kind: 'copy'; readonly partition: number; readonly from: string; readonly to: string }

export function ok(check: string, what: string): ImageFinding {
  return { level: 'ok', check, what, whyItMatters: '', doNext: '' }
}

export function warning(check: string, what: string, whyItMatters: string, doNext: string): ImageFinding {
  return { level: 'warning', check, what, whyItMatters, doNext }
}

export function error(check: string, what: string, whyItMatters: string, doNext: string): ImageFinding {
  return { level: 'error', check, what, whyItMatters, doNext }
}
