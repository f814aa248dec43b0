/** A login to the disk of a boot script, by libiscsi. */
import type { LabNetwork } from '../../lab/namespace.ts'
import { lab } from '../../lab/namespace.ts'

/** The disk's INQUIRY data, as a machine with this script gets it. @throws {OperationError} commandFailed: refused */
export async function scriptLogin(network: LabNetwork, script: string): Promise<string> {
  const set = (name: string): string => new RegExp(`^set ${name} (\\S+)`, 'm').exec(script)?.[1] ?? ''
  const target = /^sanboot .*?iscsi:\S*?(iqn\.\S+?)(?: |$)/m.exec(script)?.[1] ?? ''
  const environment = [
    `LIBISCSI_CHAP_USERNAME=${set('username')}`,
    `LIBISCSI_CHAP_PASSWORD=${set('password')}`,
    `LIBISCSI_CHAP_TARGET_USERNAME=${set('reverse-username')}`,
    `LIBISCSI_CHAP_TARGET_PASSWORD=${set('reverse-password')}`,
  ]
  const url = `iscsi://${lab.serverAddress}:3260/${target}/0`
  return await network.run(['env', ...environment, 'iscsi-inq', '-i', set('initiator-iqn'), url], 'iscsi-inq')
}
