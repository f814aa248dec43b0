/** What `up` and `doctor` are both told: where, with what, for whom. */
import { readFileSync } from 'node:fs'
import { type Command, Option } from 'commander'
import { type AdmitMode, type ConfigFile, parseConfig, type UpFlags } from '../app/config.ts'
import { OperationError } from '../base/errors.ts'
import { codeOf } from '../host/file.ts'
import { defaultStateDirectory } from '../host/state-directory.ts'
import { bytes, port } from './options.ts'

export type UpCommandFlags = {
  readonly interface?: string
  readonly dhcp?: string
  readonly admit?: AdmitMode
  readonly state?: string
  readonly config?: string
  readonly loaders?: string
  readonly cache?: number
  readonly dhcpPort?: number
  readonly tftpPort?: number
  readonly httpPort?: number
  readonly httpsPort?: number
  readonly iscsiPort?: number
}

export function addUpOptions(command: Command): Command {
  return command
    .option('--interface <NAME>', 'the network the machines are on (default: the only one there is)')
    .option('--dhcp <MODE>', 'proxy: beside the DHCP server that is there; FROM-TO: hand out these addresses; off')
    .addOption(
      new Option('--admit <WHOM>', 'machines nobody decided about: hold and ask, let in, or ignore').choices([
        'ask',
        'all',
        'none',
      ]),
    )
    .option('--state <DIR>', `where clones, leases and machines are kept (default: ${defaultStateDirectory()})`)
    .option('--config <FILE>', 'slipway.toml; what stands on the command line wins over it')
    .option('--loaders <DIR>', 'where iPXE and other loaders are (default: where Debian puts them)')
    .addOption(new Option('--cache <SIZE>', 'memory for blocks of golden images (default: 512MiB)').argParser(bytes))
    .addOption(new Option('--dhcp-port <PORT>', 'UDP').argParser(port))
    .addOption(new Option('--tftp-port <PORT>', 'UDP').argParser(port))
    .addOption(new Option('--http-port <PORT>', 'TCP').argParser(port))
    .addOption(new Option('--https-port <PORT>', 'TCP').argParser(port))
    .addOption(new Option('--iscsi-port <PORT>', 'TCP').argParser(port))
}

export function upFlags(image: string | undefined, flags: UpCommandFlags): UpFlags {
  const { dhcpPort, tftpPort, httpPort, httpsPort, iscsiPort } = flags
  return {
    image,
    state: flags.state,
    interface: flags.interface,
    admit: flags.admit,
    loaders: flags.loaders,
    cache: flags.cache,
    dhcp: flags.dhcp,
    ports: { dhcp: dhcpPort, tftp: tftpPort, http: httpPort, https: httpsPort, iscsi: iscsiPort },
  }
}

export function readConfig(path: string | undefined): ConfigFile {
  if (path === undefined) return {}
  try {
    return parseConfig(readFileSync(path, 'utf8'), path)
  } catch (error) {
    if (error instanceof OperationError) throw error
    const hint = 'Check the path and who may read it.'
    throw new OperationError('configInvalid', `cannot read ${path}: ${codeOf(error)}`, hint, { cause: error })
  }
}
