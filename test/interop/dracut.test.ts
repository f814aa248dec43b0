/**
 * Goal: a Fedora that is started by its kernel is told what it needs. Method: dracut's own shell reads what we write for it, as its
 * initramfs would; Debian has it as a package, which is unpacked and not installed. (That initramfs-tools reads it is shown by a boot:
 * test/e2e/uboot-root.test.ts.)
 */
import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { unpackedPackage } from '../../lab/debian.ts'
import { defaultCacheFolder } from '../../lab/golden-image.ts'
import { Secret } from '../../src/base/secret.ts'
import { settingsArchive } from '../../src/boot/linux-settings.ts'

const script = `cd "$1"
warn() { echo "warn: $*" >&2; }
str_starts() { [ "\${1#"$2"*}" != "$1" ]; }
for word in $(cat etc/cmdline.d/*.conf); do
  case $word in netroot=*) netroot=\${word#netroot=} ;; esac
done
. ./parser
parse_iscsi_root "$netroot"
set | grep ^iscsi_
`

test("dracut's own parser finds target and secrets in what is written for it", async () => {
  const { folder } = await unpackedPackage(defaultCacheFolder(), 'dracut-network')
  const modules = join(folder, 'usr/lib/dracut/modules.d')
  const name = readdirSync(modules, { recursive: true, encoding: 'utf8' }).find((each) => each.endsWith('/net-lib.sh'))
  const parser = execFileSync('sed', ['-n', '/^parse_iscsi_root()/,/^}/p', join(modules, name ?? '')])
  const work = await mkdtemp(join(tmpdir(), 'slipway-dracut-'))
  onTestFinished(() => rm(work, { recursive: true }))
  await writeFile(join(work, 'parser'), parser)
  const login = (user: string, secret: string): { user: string; secret: Secret } => ({
    user,
    secret: new Secret(secret),
  })
  const archive = settingsArchive({
    portal: { address: '192.168.77.1', port: 3260 },
    targetName: 'iqn.2026-01.internal.slipway:disk.525400770010',
    initiatorName: 'iqn.2026-01.internal.slipway:machine.525400770010',
    initiator: login('USERUSERUSERUSER', 'SECRETSECRETSECR'),
    target: login('TARGETTARGETTARG', 'PROOFPROOFPROOFP'),
  })
  execFileSync('cpio', ['--extract', '--quiet'], { cwd: work, input: archive })
  const found = execFileSync('bash', ['-c', script, 'dracut', work], { encoding: 'utf8' })
  expect(found.trim().split('\n').sort()).toEqual([
    'iscsi_in_password=PROOFPROOFPROOFP',
    'iscsi_in_username=TARGETTARGETTARG',
    'iscsi_lun=0',
    'iscsi_password=SECRETSECRETSECR',
    'iscsi_protocol=',
    'iscsi_target_ip=192.168.77.1',
    'iscsi_target_name=iqn.2026-01.internal.slipway:disk.525400770010',
    'iscsi_target_port=3260',
    'iscsi_username=USERUSERUSERUSER',
  ])
})
