/** `slipway certificate`: the certificates with which machines prove themselves. */
import { OperationError } from '../base/errors.ts'
import type { MachineCertificate } from '../fleet/certificates.ts'
import type { Machine } from '../fleet/machine.ts'
import { systemClock } from '../host/clock.ts'
import { kindOf, makeDirectory } from '../host/directory.ts'
import { describeOpen } from '../host/file.ts'
import { systemHash } from '../host/hash.ts'
import { writeWholeFile } from '../host/whole-file.ts'
import { exportCertificate } from '../trust/authority.ts'
import { fingerprintOf } from '../trust/certificate.ts'
import { issueMachineCertificate } from '../trust/site.ts'
import { macOf, withFleet } from './admission.ts'
import { needAuthority, trustPorts } from './site-authority.ts'

export type ListedCertificate = MachineCertificate & { readonly name: string | undefined }

export type IssueTerms = {
  /** MAC address or name. */
  readonly machine: string
  readonly directory: string
  readonly days: number
  /** For an authority that is made now. */
  readonly authorityName: string
}

/** What it writes into `directory`; `slipway loaders kit`'s build takes them from there. The key is for its owner only. */
const keyFile = 'machine.key'
const certificateFile = 'machine.crt'

/** Known to a running server when it returns. @throws {OperationError} usage, fileExists; those of issueLeaf; fileForbidden */
export async function issueCertificate(stateDirectory: string, terms: IssueTerms): Promise<ListedCertificate> {
  const { authorityName, days, directory } = terms
  const machine = withFleet(stateDirectory, (fleet) => named(terms.machine, fleet.machines()))
  const paths = { key: `${directory}/${keyFile}`, certificate: `${directory}/${certificateFile}` }
  for (const path of Object.values(paths)) {
    // The only copy of a key that may be in use.
    if ((await kindOf(path)) === undefined) continue
    const hint = 'Name a folder for each machine, or take the old one away.'
    throw new OperationError('fileExists', `${path} exists already`, hint)
  }
  const authority = await needAuthority(stateDirectory, authorityName)
  const nowMs = systemClock.wallMs()
  const issued = await issueMachineCertificate(authority, { machine: machine.mac, days, nowMs }, trustPorts)
  const { certificate, key } = issued
  await makeDirectory(directory).catch((error: unknown) => {
    throw describeOpen(directory, error)
  })
  await writeWholeFile(paths.key, key.exportPem().reveal(), 0o600)
  await writeWholeFile(paths.certificate, exportCertificate(certificate), 0o644)
  const known: MachineCertificate = {
    fingerprint: hex(fingerprintOf(certificate, systemHash)),
    mac: machine.mac,
    serial: certificate.serial,
    issuedMs: nowMs,
    notAfterMs: certificate.notAfterMs,
    revokedMs: undefined,
  }
  // Last: a certificate that could not be written is known to nobody.
  withFleet(stateDirectory, (_, { putCertificate }) => putCertificate(known))
  return { ...known, name: machine.name }
}

/** Of one machine, or of all. @throws {OperationError} usage */
export function listCertificates(stateDirectory: string, machine: string | undefined): readonly ListedCertificate[] {
  return withFleet(stateDirectory, (fleet, { certificates }) => {
    const machines = fleet.machines()
    const wanted = machine === undefined ? undefined : named(machine, machines).mac
    return certificates()
      .filter(({ mac }) => wanted === undefined || mac === wanted)
      .map((each) => ({ ...each, name: machines.find(({ mac }) => mac === each.mac)?.name }))
  })
}

/**
 * One by its serial number, or all of a machine. Boots that began with it end, and a running server ends their sessions.
 * @throws {OperationError} certificateUnknown
 */
export function revokeCertificates(stateDirectory: string, which: string): readonly ListedCertificate[] {
  return withFleet(stateDirectory, (fleet, { certificates, putCertificate }) => {
    const machines = fleet.machines()
    const serial = which.toLowerCase().replaceAll(':', '')
    const mac = macOf(which, machines)
    const good = certificates().filter(
      (each) => each.revokedMs === undefined && (each.serial === serial || each.mac === mac),
    )
    if (good.length === 0) {
      const hint = 'Name a machine, or a serial number: slipway certificate list shows them.'
      throw new OperationError('certificateUnknown', `there is no certificate of ${which} that could be revoked`, hint)
    }
    const revokedMs = systemClock.wallMs()
    for (const each of good) putCertificate({ ...each, revokedMs })
    const revoked = new Set(good.map(({ fingerprint }) => fingerprint))
    for (const each of new Set(good.map((one) => one.mac))) {
      fleet.releaseProvedBy(each, (proof) => proof.kind === 'certificate' && revoked.has(proof.fingerprint))
    }
    return good.map((each) => ({ ...each, revokedMs, name: machines.find((one) => one.mac === each.mac)?.name }))
  })
}

/** A machine that was never seen is named by its MAC address. */
function named(
  text: string,
  machines: readonly Machine[],
): { readonly mac: string; readonly name: string | undefined } {
  const mac = macOf(text, machines)
  if (mac !== undefined) return { mac, name: machines.find((machine) => machine.mac === mac)?.name }
  const hint = 'Write it like 52:54:00:12:34:56. `slipway machines` lists those that are known, with their names.'
  throw new OperationError('usage', `${text} is not a MAC address, and no machine has that name`, hint)
}

const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
