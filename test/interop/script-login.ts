/** A machine's script, as curl gets it, and what its secrets open, by libiscsi. */
import { type LabNetwork, lab } from '../../lab/namespace.ts'

type Place = { readonly network: LabNetwork }
export type ScriptSettings = ReadonlyMap<string, string>

/** What a script sets, by name; the disk's target and its server as 'target' and 'portal', the whole as 'text'. */
export function settingsOf(script: string): ScriptSettings {
  const settings = [...script.matchAll(/^set (\S+) (\S+)/gm)].map(([, name = '', value = '']) => [name, value] as const)
  const [, portal = '', target = ''] = /^sanboot .*?iscsi:([\d.]*):\S*?(iqn\.\S+?)(?: |$)/m.exec(script) ?? []
  return new Map([...settings, ['target', target], ['portal', portal], ['text', script]])
}

export async function fetchScript(
  { network }: Place,
  url: string,
  options: readonly string[] = [],
): Promise<ScriptSettings> {
  return settingsOf(await network.run(['curl', '--silent', '--show-error', '--fail', ...options, url], 'curl'))
}

/** The disk's INQUIRY data, as a machine with this script gets it. @throws {OperationError} commandFailed: refused */
export async function scriptLogin(
  network: LabNetwork,
  script: ScriptSettings,
  address: string = lab.serverAddress,
): Promise<string> {
  const of = (name: string): string => script.get(name) ?? ''
  const environment = [
    `LIBISCSI_CHAP_USERNAME=${of('username')}`,
    `LIBISCSI_CHAP_PASSWORD=${of('password')}`,
    `LIBISCSI_CHAP_TARGET_USERNAME=${of('reverse-username')}`,
    `LIBISCSI_CHAP_TARGET_PASSWORD=${of('reverse-password')}`,
  ]
  const url = `iscsi://${address}:3260/${of('target')}/0`
  return await network.run(['env', ...environment, 'iscsi-inq', '-i', of('initiator-iqn'), url], 'iscsi-inq')
}
