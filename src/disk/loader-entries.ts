/** Boot loader entries (UAPI.1, The Boot Loader Specification): /loader/entries/*.conf, one for each kernel. */
import { initramfsCountMax } from './limits.ts'

export interface LoaderEntry {
  /** The file's name without .conf, and without the count of tries. */
  readonly id: string
  readonly title: string
  readonly version: string
  readonly sortKey: string
  /** Paths from the root of the file system that has the entry. */
  readonly kernel: string
  readonly initramfs: readonly string[]
  readonly commandLine: string
  /** It was tried often enough and never came up. */
  readonly isBad: boolean
}

/** Undefined for one that starts no Linux. */
export function parseLoaderEntry(fileName: string, text: string): LoaderEntry | undefined {
  const values = new Map<string, string[]>()
  for (const line of text.split('\n')) {
    const [, key, value] = /^\s*([a-z][a-z-]*)\s+(.*?)\s*$/.exec(line) ?? []
    if (key === undefined || value === undefined) continue
    values.set(key, [...(values.get(key) ?? []), value])
  }
  const last = (key: string): string => values.get(key)?.at(-1) ?? ''
  const kernel = last('linux')
  if (kernel === '') return undefined
  // 'name+LEFT-DONE.conf': none left.
  const [, id = '', left] = /^(.*?)(?:\+(\d{1,9})(?:-\d{1,9})?)?\.conf$/.exec(fileName) ?? []
  return {
    id,
    title: last('title'),
    version: last('version'),
    sortKey: last('sort-key'),
    kernel,
    // An older form has several in one line.
    initramfs: (values.get('initrd') ?? []).flatMap((value) => value.split(/\s+/)).slice(0, initramfsCountMax),
    commandLine: (values.get('options') ?? []).join(' ').trim(),
    isBad: left !== undefined && Number(left) === 0,
  }
}

const collator = new Intl.Collator('en', { numeric: true })

/** As a menu shows them: those with a sort key first and by it, then the newest first. */
export function sortLoaderEntries(entries: readonly LoaderEntry[]): LoaderEntry[] {
  return entries.toSorted((a, b) => {
    if (a.isBad !== b.isBad) return a.isBad ? 1 : -1
    if ((a.sortKey === '') !== (b.sortKey === '')) return a.sortKey === '' ? 1 : -1
    return (
      collator.compare(a.sortKey, b.sortKey) || collator.compare(b.version, a.version) || collator.compare(b.id, a.id)
    )
  })
}

/** `default` of loader.conf is a pattern with * and ?, for an id with or without .conf. */
export function defaultLoaderEntry(entries: readonly LoaderEntry[], loaderConf: string): LoaderEntry | undefined {
  const sorted = sortLoaderEntries(entries)
  const pattern = /^default\s+(\S+)\s*$/m.exec(loaderConf)?.[1]
  if (pattern === undefined || pattern.length > 256) return sorted[0]
  return sorted.find(({ id }) => matches(pattern, id) || matches(pattern, `${id}.conf`)) ?? sorted[0]
}

/** Without backtracking: a pattern of many stars is as cheap as one. */
function matches(pattern: string, text: string): boolean {
  let at = 0
  let star: { readonly pattern: number; text: number } | undefined
  let patternAt = 0
  while (at < text.length) {
    const wanted = pattern.charAt(patternAt)
    if (wanted === '*') star = { pattern: ++patternAt, text: at }
    else if (patternAt < pattern.length && (wanted === '?' || wanted === text.charAt(at))) {
      patternAt++
      at++
    } else if (star !== undefined) {
      patternAt = star.pattern
      at = ++star.text
    } else return false
  }
  return /^\**$/.test(pattern.slice(patternAt))
}
