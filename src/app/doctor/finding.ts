/** One thing that `slipway doctor` looked at. Every finding that is not ok says why it matters and what to do. */
export interface Finding {
  readonly level: 'ok' | 'warning' | 'error'
  /** Stable, for tests and --json: 'port.tftp', 'image.bootable'. */
  readonly check: string
  readonly what: string
  /** Empty where all is well. */
  readonly whyItMatters: string
  readonly doNext: string
}

export function ok(check: string, what: string): Finding {
  return { level: 'ok', check, what, whyItMatters: '', doNext: '' }
}

export function warning(check: string, what: string, whyItMatters: string, doNext: string): Finding {
  return { level: 'warning', check, what, whyItMatters, doNext }
}

export function error(check: string, what: string, whyItMatters: string, doNext: string): Finding {
  return { level: 'error', check, what, whyItMatters, doNext }
}
