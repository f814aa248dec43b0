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
  /** The same as files to write, where that alone does it. What it changes is not built into an initramfs before. */
  readonly repair?: Repair
}

/** Whole files with their new content, on one partition. */
export interface Repair {
  readonly partition: number
  readonly files: readonly { readonly path: string; readonly content: string }[]
}

export function ok(check: string, what: string): ImageFinding {
  return { level: 'ok', check, what, whyItMatters: '', doNext: '' }
}

export function warning(check: string, what: string, whyItMatters: string, doNext: string): ImageFinding {
  return { level: 'warning', check, what, whyItMatters, doNext }
}

export function error(check: string, what: string, whyItMatters: string, doNext: string): ImageFinding {
  return { level: 'error', check, what, whyItMatters, doNext }
}
