import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type Command, Option } from 'commander'
import { decideUp } from '../app/config.ts'
import type { Finding } from '../app/doctor/finding.ts'
import { defaultStateDirectory } from '../host/state-directory.ts'
import { exitCode } from './exit.ts'
import { addUpOptions, readConfig, type UpCommandFlags, upFlags } from './up-options.ts'

type Flags = UpCommandFlags & { readonly json?: boolean }

export function addDoctorCommand(program: Command): void {
  const command = program
    .command('doctor')
    .description('Look at everything that a boot will need, before anything is started, and say what to do.')
    .argument('[IMAGE]', 'disk image to look into')
  addUpOptions(command)
    .addOption(new Option('--json', 'one finding a line, as JSON'))
    .action(async (image: string | undefined, flags: Flags) => {
      const { runDoctor, worstOf } = await import('../app/doctor/doctor.ts')
      const { systemProbes } = await import('../app/doctor/system-probes.ts')
      const { openGolden } = await import('../app/golden.ts')
      const { addedLoadersFolder } = await import('../app/loaders.ts')
      const file = readConfig(flags.config)
      const imagePath = image ?? file.image
      // Everything else about a boot can be looked at without an image.
      const config = decideUp(file, { ...upFlags(imagePath ?? '-', flags) }, defaultStateDirectory())
      // `up` looks there first, and does not miss it when nothing was added.
      const added = join(config.stateDirectory, addedLoadersFolder)
      const loadersDirectories = [...(existsSync(added) ? [added] : []), ...config.loadersDirectories]
      const options = { ...config, loadersDirectories, imagePath }
      const { pathOfImage } = await import('../app/library.ts')
      const openImage = async (said: string) =>
        (await openGolden(await pathOfImage(config.stateDirectory, said))).device
      const probes = systemProbes({ openImage })
      const findings = await runDoctor(options, probes)
      for (const finding of findings) {
        process.stdout.write(`${flags.json === true ? JSON.stringify(finding) : describe(finding)}\n`)
      }
      if (worstOf(findings) === 'error') process.exitCode = exitCode.found
    })
}

const marks = { ok: 'ok     ', warning: 'warning', error: 'ERROR  ' } as const

function describe({ level, what, whyItMatters, doNext }: Finding): string {
  const more = [whyItMatters, doNext].filter((text) => text !== '').map((text) => `\n          ${text}`)
  return `${marks[level]}  ${what}${more.join('')}`
}
