/** The `slipway` command: reads the command line, starts what it names, prints, and exits. Decides nothing itself. */
import { Command, CommanderError } from 'commander'
import { version } from '../app/version.ts'
import { addAccountCommands } from './accounts.ts'
import { addAdmissionCommands } from './admission.ts'
import { addAuditCommand } from './audit.ts'
import { addCaCommands } from './ca.ts'
import { addCertificateCommands } from './certificates.ts'
import { addCloneCommands } from './clones.ts'
import { addDoctorCommand } from './doctor.ts'
import { exitCode, reportFailure } from './exit.ts'
import { addImageCommands } from './images.ts'
import { addLoadersCommands } from './loaders.ts'
import { addTargetCommand } from './target.ts'
import { addUpCommand } from './up.ts'

const program = new Command('slipway')
  .description(
    'A network boot server for diskless machines: DHCP, TFTP, HTTP and an iSCSI disk for each, in one program.',
  )
  .version(version)
  .showHelpAfterError('(slipway --help and slipway COMMAND --help tell more)')
  .addHelpText(
    'after',
    `
Exit codes: 0 done, 1 something failed, 2 the command line or configuration is not understood, 3 a check found errors.

Examples:
  slipway doctor golden.img --interface eth0      look before anything is started
  slipway up golden.img --interface eth0          serve it beside the DHCP server that is there
  slipway up golden.img --dhcp 192.168.77.100-192.168.77.199
  slipway admit 52:54:00:12:34:56                 let a machine in
  slipway target disk.img --listen 127.0.0.1:3260 only an iSCSI disk`,
  )
  .exitOverride()

addUpCommand(program)
addTargetCommand(program)
addAdmissionCommands(program)
addImageCommands(program)
addCloneCommands(program)
addDoctorCommand(program)
addCaCommands(program)
addAuditCommand(program)
addCertificateCommands(program)
addAccountCommands(program)
addLoadersCommands(program)
for (const command of program.commands) {
  command.exitOverride()
  for (const below of command.commands) below.exitOverride()
}

try {
  await program.parseAsync(process.argv)
} catch (error) {
  process.exitCode = error instanceof CommanderError ? codeOfCommander(error) : reportFailure(error)
}

/** Commander has printed already; asking for help or the version is no failure. */
function codeOfCommander(error: CommanderError): number {
  return error.exitCode === 0 ? exitCode.done : exitCode.usage
}
