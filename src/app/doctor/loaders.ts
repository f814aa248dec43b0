/** Whether there is an iPXE for each firmware, and what those can do. */
import { OperationError } from '../../base/errors.ts'
import type { Firmware } from '../../disk/inspect.ts'
import { sourceOfBytes } from '../../disk/source.ts'
import { identifyLoader, type Loader } from '../../trust/loaders/identify.ts'
import type { DoctorOptions } from './doctor.ts'
import { error, type Finding, ok, warning } from './finding.ts'
import { titleOf } from './image.ts'
import type { DoctorProbes } from './probes.ts'
import { checkVlanLoaders } from './storage.ts'

/** Loaders looked at: a folder of thousands of files is not one of loaders. */
const loaderFileCountMax = 200

export async function checkLoaders(options: DoctorOptions, probes: DoctorProbes): Promise<Finding[]> {
  const findings: Finding[] = []
  const loaders: { readonly name: string; readonly loader: Loader }[] = []
  for (const directory of options.loadersDirectories) {
    const files = await probes.loaderFiles(directory)
    if (files === undefined) {
      const next = 'apt install ipxe, or name another folder: --loaders DIR.'
      findings.push(warning('loaders.folder', `${directory} is not there`, 'Loaders are taken from it.', next))
      continue
    }
    for (const file of files.slice(0, loaderFileCountMax)) {
      const loader = await identifyOrNot(await file.bytes())
      if (loader !== undefined) loaders.push({ name: file.name, loader })
    }
  }
  const ipxes = loaders.filter(
    ({ loader }) => loader.kind === 'ipxe' && ['pxe', 'efiApplication'].includes(loader.form),
  )
  if (ipxes.length === 0) {
    const why = 'Firmware cannot boot from iSCSI by itself: it is handed an iPXE first.'
    findings.push(error('loaders', 'there is no iPXE', why, 'apt install ipxe, or name another folder: --loaders DIR.'))
    return findings
  }
  const firmwares: readonly Firmware[] = ['bios', 'x86_64', 'arm64']
  for (const firmware of firmwares) {
    const own = ipxes.filter(({ loader }) => loader.firmware === firmware && loader.can.iscsi !== 'no')
    const check = `loaders.${firmware}`
    if (own.length > 0) findings.push(ok(check, `${titleOf(firmware)}: ${own.map(describe).join('; ')}`))
    else if (firmware === 'arm64')
      findings.push(ok(check, `${titleOf(firmware)}: no iPXE; such machines are not served`))
    else {
      const next = firmware === 'bios' ? 'Add undionly.kpxe (apt install ipxe).' : 'Add snponly.efi (apt install ipxe).'
      findings.push(warning(check, `${titleOf(firmware)}: no iPXE with iSCSI`, 'Such machines cannot be booted.', next))
    }
  }
  findings.push(...checkVlanLoaders(options.storage, ipxes))
  const secure = ipxes.filter(({ loader }) => loader.can.https === 'yes')
  if (secure.length > 0) {
    findings.push(ok('loaders.https', `HTTPS: ${secure.map(({ name }) => name).join(', ')}`))
  } else {
    const why = 'Scripts then travel unprotected, and with them the secrets of the boot.'
    const next = 'Add an iPXE built with DOWNLOAD_PROTO_HTTPS (docs/loaders.md).'
    findings.push(warning('loaders.https', 'no iPXE is known to have HTTPS', why, next))
  }
  return findings
}

async function identifyOrNot(bytes: Uint8Array): Promise<Loader | undefined> {
  try {
    return await identifyLoader(sourceOfBytes(bytes))
  } catch (thrown) {
    // A folder of loaders has other things in it: modules, configuration, discs.
    if (thrown instanceof OperationError) return undefined
    throw thrown
  }
}

function describe({ name, loader }: { readonly name: string; readonly loader: Loader }): string {
  const version = loader.version === undefined ? '' : ` ${loader.version}`
  const abilities = (['iscsi', 'https', 'vlan'] as const).filter((ability) => loader.can[ability] === 'yes')
  const known = loader.can.iscsi === 'unknown' ? 'what it can do is not known' : abilities.join(', ')
  return `${name}${version} (${known})`
}
