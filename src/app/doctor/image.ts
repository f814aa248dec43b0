/** What is on the image, and which firmware starts from it. */
import { formatBytes } from '../../base/units.ts'
import { type DiskSummary, type Firmware, whatIsOn } from '../../disk/inspect.ts'
import type { DoctorOptions } from './doctor.ts'
import { error, type Finding, ok, warning } from './finding.ts'
import type { DoctorProbes } from './probes.ts'

export async function checkImage({ imagePath }: DoctorOptions, probes: DoctorProbes): Promise<Finding[]> {
  if (imagePath === undefined) return []
  const device = await probes.openImage(imagePath)
  let summary: DiskSummary
  try {
    summary = await whatIsOn(device)
  } finally {
    await device.close()
  }
  const findings: Finding[] = [ok('image', `${imagePath}: ${describeDisk(summary)}`)]
  const works = summary.bootableFor.filter(({ bootable }) => bootable)
  for (const { firmware, bootable, reason } of summary.bootableFor) {
    const check = `image.${firmware}`
    if (bootable) findings.push(ok(check, `${titleOf(firmware)}: ${reason}`))
    else {
      const why = `A machine with ${titleOf(firmware)} gets as far as the disk, and no further.`
      const next = works.length === 0 ? reason : `Nothing, if there are no such machines. Otherwise: ${reason}`
      findings.push(warning(check, `${titleOf(firmware)}: not bootable`, why, next))
    }
  }
  if (works.length === 0) {
    const why = 'No machine will start from it.'
    const next = 'Install a boot loader in it, or check that it is a disk image and not one of a single partition.'
    findings.push(error('image.bootable', 'no firmware that is known finds anything to start on it', why, next))
  }
  for (const problem of summary.problems) {
    const why = 'It may be damaged, or not be what it seems.'
    findings.push(warning('image.problem', problem, why, 'Repair it with the tool named, or the one that made it.'))
  }
  return findings
}

function describeDisk({ sizeBytes, table, partitions, distribution, kernels }: DiskSummary): string {
  const system = distribution === undefined ? undefined : distribution.name
  const kernel = kernels.map(({ version }) => version).find((version) => version !== '')
  const layout = table === 'none' ? 'no partition table' : `${table.toUpperCase()}, ${partitions.length} partitions`
  return [formatBytes(sizeBytes), layout, system, kernel && `kernel ${kernel}`]
    .filter((part) => part !== undefined)
    .join(', ')
}

export function titleOf(firmware: Firmware): string {
  return firmware === 'bios' ? 'BIOS' : `UEFI ${firmware}`
}
