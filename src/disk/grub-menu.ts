/**
 * What a grub.cfg would start if nobody touched a key: its statements run, as far as they decide that, against variables and
 * nothing else. Files that it would `source` are not read, and tests for files fail (but for the environment block, where there
 * is one): distributions put what matters into grub.cfg itself.
 */
import { malformed } from './disk-error.ts'
import { type GrubStatement, type GrubWord, parseGrub } from './grub-syntax.ts'
import { grubCommandCountMax, grubNestingMax, grubWordCharactersMax, initramfsCountMax } from './limits.ts'

export interface GrubChoice {
  readonly title: string
  /** With the device in front where the menu says one: '(hd0,gpt2)/vmlinuz'. */
  readonly kernel: string
  readonly initramfs: readonly string[]
  readonly commandLine: string
  /** What $root was: 'uuid=...', 'label=...', 'file=...' by `search`, 'hd0,gpt2', or '' where nobody set it. */
  readonly device: string
}

/** Of boot loader entries, by `blscfg`: those who want them first say which. */
export interface GrubEntry {
  readonly title: string
  readonly id: string
  readonly kernel: string
  readonly initramfs: readonly string[]
  readonly commandLine: string
}

export interface GrubSurroundings {
  /** Of the environment block: saved_entry and the like; undefined: there is no such file. */
  readonly environment: ReadonlyMap<string, string> | undefined
  /** What `blscfg` finds, newest first. */
  readonly loaderEntries: readonly GrubEntry[]
}

/** Undefined: it starts no Linux. @throws {DiskError} malformed */
export function defaultOfGrub(text: string, surroundings: GrubSurroundings): GrubChoice | undefined {
  return new Menu(surroundings).choose(parseGrub(text))
}

/** 'name=value' lines behind '# GRUB Environment Block', filled up with '#'. */
export function parseGrubEnvironment(text: string): Map<string, string> {
  const values = new Map<string, string>()
  for (const line of text.split('\n')) {
    const at = line.indexOf('=')
    if (line.startsWith('#') || at < 1) continue
    values.set(line.slice(0, at), line.slice(at + 1).replaceAll(/\\(.)/g, '$1'))
  }
  return values
}

type Item =
  | { readonly kind: 'entry'; readonly title: string; readonly id: string; readonly body: readonly GrubStatement[] }
  | { readonly kind: 'submenu'; readonly title: string; readonly id: string; readonly body: readonly GrubStatement[] }
  | { readonly kind: 'loaderEntry'; readonly title: string; readonly id: string; readonly entry: GrubEntry }

/** What GRUB on UEFI says of itself; menus ask for it. */
const ownVariables: ReadonlyArray<readonly [name: string, value: string]> = [
  ...['menuentry_id', 'menuentry_options', 'default_font_path', 'all_video_module', 'timeout_style'].map(
    (feature) => [`feature_${feature}`, 'y'] as const,
  ),
  ...['chainloader_bpb', 'ntldr', 'platform_search_hint', 'nativedisk_cmd', '200_final'].map(
    (feature) => [`feature_${feature}`, 'y'] as const,
  ),
  ['menuentry_id_option', '--id'],
  ['grub_platform', 'efi'],
  ['prefix', '/boot/grub'],
]
const entryOptionsWithValue = ['--class', '--users', '--hotkey', '--id']

class Menu {
  readonly #surroundings: GrubSurroundings
  readonly #variables = new Map<string, string>(ownVariables)
  readonly #functions = new Map<string, readonly GrubStatement[]>()
  #items: Item[] = []
  #kernel: { readonly path: string; readonly commandLine: string } | undefined
  #initramfs: string[] = []
  #commandCount = 0
  #depth = 0

  constructor(surroundings: GrubSurroundings) {
    this.#surroundings = surroundings
  }

  choose(statements: readonly GrubStatement[]): GrubChoice | undefined {
    this.#run(statements)
    // 'gnulinux-advanced>gnulinux-6.1.0' is an entry of a submenu.
    let path = (this.#variables.get('default') ?? '').split('>')
    for (let depth = 0; depth < grubNestingMax; depth++) {
      const item = this.#find(path[0] ?? '')
      if (item === undefined) {
        // A menu without entries may boot by itself: `linux ...; boot`.
        return this.#kernel === undefined ? undefined : this.#chosen('')
      }
      if (item.kind === 'loaderEntry') {
        const { title, kernel, initramfs, commandLine } = item.entry
        const expanded = commandLine.replaceAll(/\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?/g, (_, name: string) =>
          this.#valueOf(name),
        )
        return { title, kernel, initramfs, commandLine: words(expanded), device: this.#valueOf('root') }
      }
      this.#variables.set('chosen', item.title)
      this.#items = []
      this.#run(item.body)
      if (item.kind === 'entry') return this.#kernel === undefined ? undefined : this.#chosen(item.title)
      path = path.slice(1)
    }
    throw malformed('grub.cfg', 'submenus without an end')
  }

  #chosen(title: string): GrubChoice | undefined {
    const kernel = this.#kernel
    if (kernel === undefined) return undefined
    return {
      title,
      kernel: kernel.path,
      initramfs: this.#initramfs,
      commandLine: kernel.commandLine,
      device: this.#valueOf('root'),
    }
  }

  /** get_entry_number (grub-core/normal/menu.c): a number, an id, a title; else the first. */
  #find(name: string): Item | undefined {
    const wanted = name.trim()
    const byName = this.#items.find(({ id, title }) => wanted !== '' && (id === wanted || title === wanted))
    const byNumber = /^\d{1,6}$/.test(wanted) ? this.#items[Number(wanted)] : undefined
    return byNumber ?? byName ?? this.#items[0]
  }

  #valueOf(name: string): string {
    return this.#variables.get(name) ?? ''
  }

  /** Whether the last of them went well. */
  #run(statements: readonly GrubStatement[]): boolean {
    if (++this.#depth > grubNestingMax) throw malformed('grub.cfg', `calls nested deeper than ${grubNestingMax}`)
    let isGood = true
    for (const statement of statements) isGood = this.#runOne(statement)
    this.#depth--
    return isGood
  }

  #runOne(statement: GrubStatement): boolean {
    if (++this.#commandCount > grubCommandCountMax)
      throw malformed('grub.cfg', `more than ${grubCommandCountMax} commands`)
    switch (statement.kind) {
      case 'if': {
        const branch = statement.branches.find(({ condition }) => this.#run(condition))
        return this.#run(branch?.body ?? statement.otherwise)
      }
      case 'for':
        for (const value of this.#expand(statement.words)) {
          this.#variables.set(statement.name, value)
          this.#run(statement.body)
        }
        return true
      case 'loop':
        return true
      case 'function':
        this.#functions.set(statement.name, statement.body)
        return true
      case 'command':
        return this.#command(this.#expand(statement.words), statement.body)
    }
  }

  /** Variables become their values; one without quotes may be several words, or none. */
  #expand(source: readonly GrubWord[]): string[] {
    const expanded: string[] = []
    for (const word of source) {
      let text = ''
      let isThere = false
      for (const part of word) {
        const value = part.kind === 'text' ? part.text : this.#valueOf(part.name)
        if (part.kind === 'variable' && !part.isQuoted) {
          const pieces = value.split(/\s+/).filter((piece) => piece !== '')
          if (pieces.length > 1) expanded.push(text + (pieces[0] ?? ''), ...pieces.slice(1, -1))
          text = pieces.length > 1 ? (pieces.at(-1) ?? '') : text + (pieces[0] ?? '')
          isThere ||= pieces.length > 0
        } else {
          text += value
          isThere = true
        }
        if (text.length > grubWordCharactersMax) throw malformed('grub.cfg', 'a word without an end')
      }
      if (isThere) expanded.push(text)
    }
    return expanded
  }

  #command(argv: readonly string[], body: readonly GrubStatement[] | undefined): boolean {
    const [name, ...rest] = argv
    const own = name === undefined ? undefined : this.#functions.get(name)
    if (own !== undefined) return this.#run(own)
    switch (name) {
      case '!':
        return !this.#command(rest, body)
      case '[':
        return rest.at(-1) === ']' && this.#test(rest.slice(0, -1))
      case 'test':
        return this.#test(rest)
      case 'false':
        return false
      case 'set':
        return this.#assign(rest[0] ?? '')
      case 'unset':
        this.#variables.delete(rest[0] ?? '')
        return true
      case 'load_env':
        for (const [key, value] of this.#surroundings.environment ?? []) this.#variables.set(key, value)
        return this.#surroundings.environment !== undefined
      case 'menuentry':
      case 'submenu':
        this.#items.push({ kind: name === 'submenu' ? 'submenu' : 'entry', ...titleOf(rest), body: body ?? [] })
        return true
      case 'blscfg':
        for (const entry of this.#surroundings.loaderEntries) {
          this.#items.push({ kind: 'loaderEntry', title: entry.title, id: entry.id, entry })
        }
        return true
      case 'linux':
      case 'linux16':
      case 'linuxefi':
        this.#kernel = { path: rest[0] ?? '', commandLine: words(rest.slice(1).join(' ')) }
        this.#initramfs = []
        return true
      case 'initrd':
      case 'initrd16':
      case 'initrdefi':
        this.#initramfs = rest.slice(0, initramfsCountMax)
        return true
      default:
        if (name?.startsWith('search')) return this.#search(argv)
        // A command that only loads, shows or waits; or an assignment without `set`.
        return name !== undefined && /^[A-Za-z_]\w*=/.test(name) ? this.#assign(name) : true
    }
  }

  #assign(text: string): boolean {
    const at = text.indexOf('=')
    if (at < 1) return false
    this.#variables.set(text.slice(0, at), text.slice(at + 1))
    return true
  }

  /** search --fs-uuid --set=root UUID, search.fs_uuid UUID root; hints are for the firmware's disks, of which none is here. */
  #search([name = '', ...rest]: readonly string[]): boolean {
    let by = /^search\.(fs_uuid|fs_label|file)$/.exec(name)?.[1]?.replace('fs_', '')
    let variable = 'root'
    const operands: string[] = []
    for (let i = 0; i < rest.length; i++) {
      const word = rest[i] ?? ''
      const short = /^-[a-z]$/.test(word) ? word : undefined
      if (word === '--fs-uuid' || short === '-u') by = 'uuid'
      else if (word === '--label' || word === '--fs-label' || short === '-l') by = 'label'
      else if (word === '--file' || short === '-f') by = 'file'
      else if (word.startsWith('--set=')) variable = word.slice('--set='.length)
      else if (word === '--set' || short === '-s') {
        // The name may be left out: `search --set --label X`, `search --set -u X`.
        const next = rest[i + 1]
        if (next !== undefined && /^[a-z_]\w*$/i.test(next) && rest.length > i + 2) variable = rest[++i] ?? variable
      } else if (word === '--hint' || short === '-h') i++
      else if (!word.startsWith('-')) operands.push(word)
    }
    const [what, target] = operands
    if (name.includes('.') && target !== undefined) variable = target
    if (what === undefined || by === undefined) return false
    this.#variables.set(variable, `${by}=${what}`)
    return true
  }

  /** grub-core/commands/test.c: -o binds less than -a, and that less than !. */
  #test(words: readonly string[]): boolean {
    const or = words.indexOf('-o')
    if (or !== -1) return this.#test(words.slice(0, or)) || this.#test(words.slice(or + 1))
    const and = words.indexOf('-a')
    if (and > 0) return this.#test(words.slice(0, and)) && this.#test(words.slice(and + 1))
    const [a = '', operator, b = ''] = words
    if (a === '!' && words.length > 1) return !this.#test(words.slice(1))
    if (words.length === 2) {
      if (a === '-n') return operator !== ''
      if (a === '-z') return operator === ''
      const isEnvironment = /\/grubenv$/.test(operator ?? '')
      return /^-[efs]$/.test(a) && isEnvironment && this.#surroundings.environment !== undefined
    }
    switch (operator) {
      case undefined:
        return a !== ''
      case '=':
      case '==':
        return a === b
      case '!=':
        return a !== b
      case '-eq':
        return Number(a) === Number(b)
      case '-ne':
        return Number(a) !== Number(b)
      case '-lt':
        return Number(a) < Number(b)
      case '-le':
        return Number(a) <= Number(b)
      case '-gt':
        return Number(a) > Number(b)
      case '-ge':
        return Number(a) >= Number(b)
      default:
        return false
    }
  }
}

function titleOf(argv: readonly string[]): { readonly title: string; readonly id: string } {
  let title: string | undefined
  let id = ''
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] ?? ''
    if (word.startsWith('--id=')) id = word.slice('--id='.length)
    else if (entryOptionsWithValue.includes(word)) {
      if (word === '--id') id = argv[i + 1] ?? ''
      i++
    } else if (!word.startsWith('--')) title ??= word
  }
  return { title: title ?? '', id }
}

function words(commandLine: string): string {
  return commandLine
    .split(/\s+/)
    .filter((word) => word !== '')
    .join(' ')
}
