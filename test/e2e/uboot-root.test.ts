/**
 * Goal: under U-Boot, which has nowhere to put an iBFT, Linux keeps its root on Slipway's disk with the secrets of this boot, and
 * nobody but root in it can read them. Method: Debian's U-Boot in QEMU, Debian's iPXE, and the Debian of linux-root.test.ts, started
 * by start = "kernel"; it writes and syncs while Slipway is killed with -9, and e2fsck judges what it left.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { runCommand } from '../../lab/child.ts'
import { debianImage, debianRootOffsetBytes } from '../../lab/debian-image.ts'
import { Machine } from '../../lab/machine.ts'
import { LabNetwork } from '../../lab/namespace.ts'
import { Shell } from '../../lab/shell.ts'
import { SlipwayServer } from '../../lab/slipway.ts'
import { stopAtPrompt } from '../../lab/uboot.ts'
import { bootWithinMs, rig } from './rig.ts'

const slipway = resolve(import.meta.dirname, '..', '..', 'bin', 'slipway')
const mac = '52:54:00:77:00:10'
/** Ten times what it takes on two cores that have nothing else to do. */
const debianWithinMs = 600_000
const goesOnWithinMs = 180_000

/** A round is told when its file, the list and the folder are on stable storage. */
const writer = `i=0
mkdir /root/w && cd /root/w
while [ ! -e /run/stop ]; do
  i=$((i + 1))
  dd if=/dev/urandom of=$i bs=100k count=2 conv=fsync 2> /dev/null || exit
  sha256sum $i >> sums && sync sums . || exit
  echo "synced $i"
done
echo "writer ended after $i"
`

test('U-Boot, iPXE, script, kernel by HTTP: Debian has its root on iSCSI by mutual CHAP, and keeps it through kill -9', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-uboot-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const stateFolder = join(folder, 'state')
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const { path: imagePath } = await debianImage('ready')
  const config = `[machine."${mac}"]\nstart = "kernel"\n`
  const server = await SlipwayServer.start({ network, imagePath, stateFolder, dhcp: 'own', admit: 'all', config })
  onTestFinished(async () => {
    await server.stop()
  })

  const machine = await Machine.powerOn({ network, firmware: 'uboot-x86', mac, memoryMebibytes: 768 })
  onTestFinished(() => machine.powerOff())
  await stopAtPrompt(machine)
  machine.type('run bootcmd_dhcp\n')
  await machine.waitFor('Open Source Network Boot Firmware', bootWithinMs)
  await machine.waitFor(`Slipway: ${mac} starts the kernel of`, bootWithinMs)
  const shell = await Shell.logIn(machine, debianWithinMs)

  expect(await shell.run('findmnt -n -o SOURCE,FSTYPE /')).toMatch(/^\/dev\/sda3\s+ext4$/)
  const commandLine = await shell.run('cat /proc/cmdline')
  expect(commandLine).toMatch(/root=UUID=\S+ ro console=ttyS0 .*ip=dhcp BOOTIF=01-52-54-00-77-00-10 disable_mtrr_trim/)
  expect(commandLine).not.toMatch(/iqn\.|iscsi|https?:/i)
  // Nothing logged in before Linux did, and both proved who they were.
  const logins = server.eventsOf('iscsiLogin')
  expect(new Set(logins.map(({ stage, authentication }) => `${stage} ${authentication}`))).toEqual(
    new Set(['system mutual']),
  )
  await expectNoSecretSeen(server, machine, shell)

  machine.type(`cat > /root/write.sh <<'END'\n${writer}END\n`)
  await shell.run('sync')
  machine.type('sh /root/write.sh &\n')
  const rounds = async (count: number): Promise<void> => {
    for (let seen = 0; seen < count; seen++) await machine.waitFor(/^synced \d+\n/, goesOnWithinMs)
  }
  await rounds(2)
  await server.crash()
  await server.startAgain()
  await rounds(3)
  machine.type('touch /run/stop\n')
  const written = (await machine.waitFor(/^writer ended after (\d+)\n/, goesOnWithinMs)).match[1]
  await shell.run('cd /root/w && sha256sum --quiet -c sums; cd')
  expect(await shell.run('grep -c . /root/w/sums')).toBe(written)

  // On U-Boot Linux cannot switch the machine off: what it says before is the end.
  machine.type('poweroff\n')
  await machine.waitFor(/reboot: (Power down|System halted)/, goesOnWithinMs)
  await machine.powerOff()
  expect(server.eventsOf('machineReported'), 'nothing failed on the way').toEqual([])
  expect(await server.stop()).toEqual({ code: 0, signal: null })
  const clone = join(stateFolder, 'clones', `${mac.replaceAll(':', '-')}.qcow2`)
  await runCommand(['qemu-img', 'check', clone], { name: 'qemu-img' })
  const whole = join(folder, 'whole.img')
  await runCommand([slipway, 'clone', 'export', mac, whole, '--state', stateFolder], { name: 'slipway clone export' })
  await runCommand(['e2fsck', '-fn', `${whole}?offset=${debianRootOffsetBytes}`], { name: 'e2fsck' })
})

test('an image whose kernel would not find its root is not started: the screen and an event say why', async () => {
  // The lab's small image has a GRUB menu and an initramfs without iSCSI.
  const config = '[images."golden"]\nstart = "kernel"\n'
  const { powerOn, server } = await rig({ dhcp: 'own', admit: 'all', config })
  const machine = await powerOn({ firmware: 'bios-ipxe-rom' })
  await machine.waitFor('Slipway: the initramfs cannot log in to a disk by iSCSI, on golden', bootWithinMs)
  await machine.waitFor('apt install open-iscsi', bootWithinMs)
  const { step, reason } = await server.waitFor('failed', bootWithinMs)
  expect(`${step}: ${reason}`).toMatch(/^kernel: the initramfs cannot log in .* golden: \/initramfs$/)
  expect(server.eventsOf('credentialsMinted'), 'no secrets for nothing').toEqual([])
})

/** The kernel's session has them, for root; everywhere else no secret is seen. */
async function expectNoSecretSeen(server: SlipwayServer, machine: Machine, shell: Shell): Promise<void> {
  const shown = machine.screen.text
  const session = '/sys/class/iscsi_session/session*'
  const asNobody = 'setpriv --reuid 65534 --regid 65534 --clear-groups'
  expect(await shell.run(`${asNobody} cat ${session}/password 2>&1 || true`)).toContain('Permission denied')
  const secrets = (await shell.run(`cat ${session}/password ${session}/password_in`)).split(/\s+/)
  expect(secrets).toEqual([expect.stringMatching(/^[A-Z2-7]{16}$/), expect.stringMatching(/^[A-Z2-7]{16}$/)])
  for (const secret of secrets) {
    expect(shown).not.toContain(secret)
    expect(JSON.stringify(server.events)).not.toContain(secret)
    await expect(shell.run(`dmesg | grep -q ${secret}`)).rejects.toThrow('dmesg')
  }
  // iPXE shows the address of what it fetches: without the key, or with dots for it.
  expect(shown).toMatch(/^http:\/\/(\w+:\*+@)?192\.168\.77\.1\/linux\/52-54-00-77-00-10\/settings\.\.\. ok$/m)
}
