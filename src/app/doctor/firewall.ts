/**
 * Would the firewall keep machines away? Reads what nft or iptables-save print and looks for ports that nobody lets in.
 * It follows no jumps to judge a packet; a rule that lets the port in, anywhere, is taken as good. So it hints, and its
 * findings are never errors.
 */
import { z } from 'zod'
import type { FirewallReading } from './probes.ts'

export interface WantedPort {
  readonly protocol: 'udp' | 'tcp'
  readonly port: number
  readonly service: string
}

export interface FirewallVerdict {
  /** What refuses by itself what is not let in: 'nftables (inet filter input)', 'ufw'. Empty: nothing seen. */
  readonly guards: readonly string[]
  /** Of the wanted ports, those that no rule lets in. Meaningful only where there are guards. */
  readonly notLetIn: readonly WantedPort[]
  /** Neither tool answered: nothing is known. */
  readonly unknown: boolean
}

export function judgeFirewall(reading: FirewallReading, wanted: readonly WantedPort[]): FirewallVerdict {
  const guards: string[] = []
  if (reading.ufwEnabled) guards.push('ufw')
  if (reading.firewalldRunning) guards.push('firewalld')
  const nft = reading.nftJson === undefined ? undefined : readNft(reading.nftJson)
  const iptables = reading.iptables === undefined ? undefined : readIptables(reading.iptables)
  guards.push(...(nft?.guards ?? []), ...(iptables?.guards ?? []))
  const accepted = [...(nft?.accepted ?? []), ...(iptables?.accepted ?? [])]
  return {
    guards,
    notLetIn: wanted.filter(({ protocol, port }) => {
      return !accepted.some((each) => each.protocols.includes(protocol) && port >= each.first && port <= each.last)
    }),
    unknown: nft === undefined && iptables === undefined,
  }
}

interface Accepted {
  readonly protocols: readonly string[]
  readonly first: number
  readonly last: number
}

interface Rules {
  readonly guards: readonly string[]
  readonly accepted: readonly Accepted[]
}

const nftChain = z.object({
  family: z.string(),
  table: z.string(),
  name: z.string(),
  hook: z.string().optional(),
  policy: z.string().optional(),
})
const nftRule = z.object({
  family: z.string(),
  table: z.string(),
  chain: z.string(),
  expr: z.array(z.record(z.string(), z.unknown())).optional(),
})
const nftRuleset = z.object({ nftables: z.array(z.record(z.string(), z.unknown())) })

/** libnftables-json(5). Undefined when it is not that. */
function readNft(json: string): Rules | undefined {
  let raw: unknown
  try {
    raw = JSON.parse(json)
  } catch {
    return undefined // printed by an nft built without JSON
  }
  const ruleset = nftRuleset.safeParse(raw)
  if (!ruleset.success) return undefined
  const guards = new Set<string>()
  const accepted: Accepted[] = []
  const inputChains = new Set<string>()
  for (const { chain } of ruleset.data.nftables) {
    const parsed = nftChain.safeParse(chain)
    if (!parsed.success || parsed.data.hook !== 'input') continue
    const { family, table, name, policy } = parsed.data
    inputChains.add(`${family} ${table} ${name}`)
    if (policy === 'drop') guards.add(`nftables (${family} ${table} ${name})`)
  }
  for (const { rule } of ruleset.data.nftables) {
    const parsed = nftRule.safeParse(rule)
    if (!parsed.success) continue
    const { family, table, chain, expr = [] } = parsed.data
    const refuses = expr.some((part) => 'drop' in part || 'reject' in part)
    // A rule of nothing but a refusal catches everything that came so far.
    const isCatchAll = expr.every((part) => 'drop' in part || 'reject' in part || 'counter' in part || 'log' in part)
    if (refuses && isCatchAll && inputChains.has(`${family} ${table} ${chain}`)) {
      guards.add(`nftables (${family} ${table} ${chain})`)
    }
    if (expr.some((part) => 'accept' in part)) accepted.push(...nftPorts(expr))
  }
  return { guards: [...guards], accepted }
}

const nftMatch = z.object({
  op: z.string(),
  left: z.object({ payload: z.object({ protocol: z.string(), field: z.literal('dport') }) }),
  right: z.unknown(),
})
const nftRange = z.object({ range: z.tuple([z.number(), z.number()]) })
const nftSet = z.object({ set: z.array(z.unknown()) })

function nftPorts(expr: readonly Record<string, unknown>[]): Accepted[] {
  return expr.flatMap(({ match }) => {
    const parsed = nftMatch.safeParse(match)
    if (!parsed.success || !['==', 'in'].includes(parsed.data.op)) return []
    const { protocol } = parsed.data.left.payload
    // 'th dport' is whatever transport there is.
    const protocols = protocol === 'th' ? ['udp', 'tcp'] : [protocol]
    return nftValues(parsed.data.right).map(([first, last]) => ({ protocols, first, last }))
  })
}

function nftValues(right: unknown): (readonly [first: number, last: number])[] {
  if (typeof right === 'number') return [[right, right]]
  const range = nftRange.safeParse(right)
  if (range.success) return [range.data.range]
  const set = nftSet.safeParse(right)
  return set.success ? set.data.set.flatMap(nftValues) : []
}

/** iptables-save: ':INPUT DROP [0:0]' and '-A INPUT -p tcp --dport 80 -j ACCEPT'. */
function readIptables(text: string): Rules {
  const guards: string[] = []
  const accepted: Accepted[] = []
  for (const line of text.split('\n')) {
    if (/^:INPUT (DROP|REJECT)/.test(line)) guards.push('iptables (INPUT)')
    if (/^-A INPUT(?: -m comment --comment .*)? -j (DROP|REJECT)\b/.test(line)) guards.push('iptables (INPUT)')
    if (!/^-A .* -j ACCEPT\b/.test(line)) continue
    const protocol = /(?: -p | --protocol )(udp|tcp)\b/.exec(line)?.[1]
    const ports = /--dports? ([\d:,]+)/.exec(line)?.[1]
    if (protocol === undefined || ports === undefined) continue
    for (const part of ports.split(',')) {
      const [first = 0, last = first] = part.split(':').map(Number)
      accepted.push({ protocols: [protocol], first, last })
    }
  }
  return { guards: [...new Set(guards)], accepted }
}
