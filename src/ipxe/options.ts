/** iPXE's getopt (src/core/getopt.c): options come first, `--name value` or `--name=value`, short ones as `-n value` or `-nvalue`. */

/** Option name to its one-letter form, and whether it takes a value. */
export type OptionTable = Readonly<Record<string, { readonly short: string; readonly takesValue: boolean }>>

export type Arguments = {
  /** By long name; the value is '' for an option that takes none. */
  readonly options: ReadonlyMap<string, string>
  readonly operands: readonly string[]
}

const value = (short: string): { short: string; takesValue: true } => ({ short, takesValue: true })
const flag = (short: string): { short: string; takesValue: false } => ({ short, takesValue: false })

const image: OptionTable = { name: value('n'), timeout: value('t'), autofree: flag('a') }
const chain: OptionTable = { ...image, replace: flag('r') }
const interfaces: OptionTable = { configurator: value('c'), timeout: value('t') }

/** Every command that the interpreter knows, with the options it takes. iPXE src/hci/commands. */
export const commandOptions: Readonly<Record<string, OptionTable>> = {
  set: {},
  clear: {},
  inc: {},
  isset: {},
  iseq: {},
  goto: {},
  echo: { n: flag('n') },
  exit: {},
  sleep: {},
  prompt: { key: value('k'), timeout: value('t') },
  sanhook: { drive: value('d'), 'no-describe': flag('n') },
  sanboot: { drive: value('d'), 'no-describe': flag('n'), keep: flag('k'), filename: value('f'), extra: value('e') },
  sanunhook: { drive: value('d') },
  chain,
  boot: chain,
  imgexec: chain,
  imgfetch: image,
  initrd: image,
  kernel: image,
  imgfree: {},
  imgstat: {},
  dhcp: interfaces,
  ifconf: interfaces,
  ifopen: {},
  ifclose: {},
  ifstat: {},
  route: {},
  vcreate: { tag: value('t'), priority: value('p') },
  vdestroy: {},
  login: {},
  menu: { name: value('n'), delete: flag('d') },
  item: { menu: value('m'), key: value('k'), default: flag('d'), gap: flag('g') },
  choose: { menu: value('m'), default: value('d'), timeout: value('t'), keep: flag('k') },
  params: { name: value('n'), delete: flag('d') },
  param: { params: value('p'), header: flag('H') },
  imgtrust: { permanent: flag('p'), allow: flag('a') },
  imgverify: { keep: flag('k'), signer: value('s'), timeout: value('t') },
  ntp: {},
  reboot: { warm: flag('w') },
  poweroff: {},
  shell: {},
}

/** Undefined if iPXE would print the command's usage and fail. */
export function parseArguments(table: OptionTable, argv: readonly string[]): Arguments | undefined {
  const options = new Map<string, string>()
  let at = 0
  while (at < argv.length) {
    const arg = argv[at] ?? ''
    if (!arg.startsWith('-')) break
    at++
    if (arg === '--') break
    const option = arg.startsWith('--') ? longOption(table, arg.slice(2)) : shortOption(table, arg.slice(1))
    if (option === undefined) return undefined
    if (!option.takesValue) {
      if (option.inline !== undefined) return undefined
      options.set(option.name, '')
      continue
    }
    let given = option.inline
    if (given === undefined) {
      // get_argv_argument: what looks like an option is none's value.
      if (argv[at] === undefined || argv[at]?.startsWith('-') === true) return undefined
      given = argv[at++]
    }
    options.set(option.name, given ?? '')
  }
  return { options, operands: argv.slice(at) }
}

type Found = { readonly name: string; readonly takesValue: boolean; readonly inline: string | undefined }

function longOption(table: OptionTable, text: string): Found | undefined {
  const equals = text.indexOf('=')
  const name = equals === -1 ? text : text.slice(0, equals)
  const known = Object.hasOwn(table, name) ? table[name] : undefined
  if (known === undefined) return undefined
  return { name, takesValue: known.takesValue, inline: equals === -1 ? undefined : text.slice(equals + 1) }
}

/** One letter to an argument: `-ab` for `-a -b` is not what anybody writes for iPXE. */
function shortOption(table: OptionTable, text: string): Found | undefined {
  const entry = Object.entries(table).find(([, option]) => option.short === text[0])
  if (entry === undefined) return undefined
  return { name: entry[0], takesValue: entry[1].takesValue, inline: text.length > 1 ? text.slice(1) : undefined }
}
