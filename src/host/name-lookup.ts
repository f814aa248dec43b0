import { lookup, Resolver } from 'node:dns/promises'
import { codeOf } from './file.ts'

const lookupMsMax = 3_000

/**
 * The IPv4 addresses of a host name, by the DNS servers given, or as this computer finds them when none are. Empty: nobody
 * knows it, or nobody answers.
 */
export async function addressesOfName(name: string, servers: readonly string[]): Promise<readonly string[]> {
  try {
    if (servers.length === 0) return (await lookup(name, { family: 4, all: true })).map(({ address }) => address)
    const resolver = new Resolver({ timeout: lookupMsMax, tries: 1 })
    resolver.setServers([...servers])
    return await resolver.resolve4(name)
  } catch (error) {
    if (codeOf(error) === 'unknown error') throw error
    return []
  }
}
