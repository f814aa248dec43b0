/**
 * Goal: Linux keeps its root on Slipway's disk, whatever happens to Slipway; and `slipway image check` knows what that takes.
 * Method: a real Debian, installed without care and repaired by `--fix`, its root by the iBFT and a
 * second disk that its open-iscsi logs in to, both with mutual CHAP; it writes and syncs to both all the while. Slipway and
 * the target are killed with -9, the connections are reset; then e2fsck judges both file systems, in the machine and here.
 */
import { spawnSync } from 'node:child_process'
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { type Child, runCommand } from '../../lab/child.ts'
import { debianImage, debianRootOffsetBytes } from '../../lab/debian-image.ts'
import { Machine } from '../../lab/machine.ts'
import { LabNetwork, lab } from '../../lab/namespace.ts'
import { Shell } from '../../lab/shell.ts'
import { SlipwayServer } from '../../lab/slipway.ts'

const slipway = resolve(import.meta.dirname, '..', '..', 'bin', 'slipway')
/** Ten times what it takes on two cores that have nothing else to do. */
const bootWithinMs = 600_000
const goesOnWithinMs = 180_000
const second = { name: 'iqn.2026-01.internal.slipway:second', port: 3261, bytes: 64 * 1024 * 1024 }
const chap = { user: 'debian', secret: 'initiator-of-the-test', ourUser: 'slipway', ourSecret: 'target-of-the-test' }

/** Two files a round, one on each disk; a round is told when file, list and folders are on stable storage. */
const writer = `i=0
while [ ! -e /run/stop ]; do
  i=$((i + 1))
  for d in /root/w /mnt/w; do
    dd if=/dev/urandom of=$d/$i bs=100k count=2 conv=fsync 2> /dev/null || exit
    (cd $d && sha256sum $i >> sums) && sync $d/sums $d || exit
  done
  echo "synced $i"
done
echo "writer ended after $i"
`

test('Debian boots with its root on iSCSI, and lives through kill -9 and cut connections while it writes', {
  timeout: 1_800_000,
}, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-linux-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const stateFolder = join(folder, 'state')
  expectReady((await debianImage('ready')).path)
  addRepaired((await debianImage('plain')).path, stateFolder)
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const server = await SlipwayServer.start({ network, imagePath: 'debian', stateFolder, dhcp: 'own', admit: 'all' })
  onTestFinished(async () => {
    await server.stop()
  })
  const target = await SecondTarget.start(network, folder)
  onTestFinished(() => target.crash())

  const machine = await Machine.powerOn({ network, firmware: 'uefi' })
  onTestFinished(() => machine.powerOff())
  const shell = await Shell.logIn(machine, bootWithinMs)
  expect(await shell.run('findmnt -n -o SOURCE,FSTYPE /')).toMatch(/^\/dev\/sda3\s+ext4$/)
  expect(await shell.run('cat /sys/class/iscsi_session/session*/recovery_tmo')).toBe('86400')

  // The second disk, by open-iscsi's own login.
  const node = `iscsiadm -m node -T ${second.name} -p ${lab.serverAddress}:${second.port}`
  await shell.run(`${node} -o new > /dev/null`)
  const settings = {
    authmethod: 'CHAP',
    username: chap.user,
    password: chap.secret,
    username_in: chap.ourUser,
    password_in: chap.ourSecret,
  }
  for (const [key, value] of Object.entries(settings)) {
    await shell.run(`${node} -o update -n node.session.auth.${key} -v ${value}`)
  }
  await shell.run(`${node} --login > /dev/null && udevadm settle`)
  const disk = `/dev/disk/by-path/ip-${lab.serverAddress}:${second.port}-iscsi-${second.name}-lun-0`
  await shell.run(`mkfs.ext4 -q ${disk} && mount ${disk} /mnt && mkdir /mnt/w /root/w`)
  expect(target.printed()).toContain(`logged in as ${chap.user}, mutual CHAP`)

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
  await target.crash()
  await target.startAgain()
  await rounds(3)
  // Reset under both disks: TCP says so to the machine, and nothing of the sessions is left here.
  await network.run(['ss', '--kill', 'state', 'established', `( sport = :3260 or sport = :${second.port} )`], 'ss')
  await rounds(3)
  machine.type('touch /run/stop\n')
  const written = (await machine.waitFor(/^writer ended after (\d+)\n/, goesOnWithinMs)).match[1]

  await shell.run(`umount /mnt && e2fsck -fn ${disk}`)
  await shell.run(`mount ${disk} /mnt && cd /mnt/w && sha256sum --quiet -c sums; cd`)
  expect(await shell.run('grep -c . /mnt/w/sums')).toBe(written)
  await shell.run(`umount /mnt && ${node} --logout > /dev/null`)
  await target.stop()
  await runCommand(['e2fsck', '-fn', target.path], { name: 'e2fsck' })

  // Off and on again: after Linux's warm reset QEMU emulates OVMF and what follows at a tenth of its speed.
  machine.type('poweroff\n')
  await machine.waitUntilOff(bootWithinMs)
  const machineAgain = await Machine.powerOn({ network, firmware: 'uefi' })
  onTestFinished(() => machineAgain.powerOff())
  const again = await Shell.logIn(machineAgain, bootWithinMs)
  await again.run('cd /root/w && sha256sum --quiet -c sums; cd')
  expect(await again.run('grep -c . /root/w/sums')).toBe(written)
  machineAgain.type('poweroff\n')
  await machineAgain.waitUntilOff(bootWithinMs)

  // Everybody who logged in proved who they were, both ways.
  const logins = server.eventsOf('iscsiLogin')
  expect(new Set(logins.map(({ authentication }) => authentication))).toEqual(new Set(['mutual']))
  expect(await server.stop()).toEqual({ code: 0, signal: null })
  await expectCleanClone(machine, folder, stateFolder)
})

const image = (words: readonly string[]): { status: number | null; said: string } => {
  const done = spawnSync(slipway, ['image', ...words], { encoding: 'utf8', timeout: 300_000 })
  return { status: done.status, said: done.stdout + done.stderr }
}

/** The image that was made with care. */
function expectReady(path: string): void {
  const checked = image(['check', path])
  expect(checked.said).not.toMatch(/^(warning|ERROR)/m)
  expect(checked.status).toBe(0)
}

/** The one that was not: everything is told, and repaired so that only the machine can say whether it was enough. */
function addRepaired(path: string, stateFolder: string): void {
  const state = ['--state', stateFolder]
  expect(image(['add', path, '--name', 'debian', ...state])).toMatchObject({ status: 0 })
  const checked = image(['check', 'debian', ...state])
  expect(checked.status).toBe(3)
  for (const told of [
    ...['BOOTX64.EFI is missing', '/etc/fstab: / is /dev/sda3', 'root=/dev/sda3', 'does not use the iBFT by itself'],
    ...['time-outs are too short', 'lan.network sets up a card', 'sets up enp0s1 (dhcp)', '/etc/machine-id is set'],
  ]) {
    expect(checked.said).toContain(told)
  }
  const fixed = image(['check', 'debian', '--fix', ...state])
  expect(fixed.said).toContain('debian@2 is published')
  expect(fixed.said).not.toMatch(/^(warning|ERROR)/m)
  expect(fixed.status).toBe(0)
}

async function expectCleanClone(machine: Machine, folder: string, stateFolder: string): Promise<void> {
  const clone = join(stateFolder, 'clones', `${machine.mac.replaceAll(':', '-')}.qcow2`)
  await runCommand(['qemu-img', 'check', clone], { name: 'qemu-img' })
  const whole = join(folder, 'whole.img')
  const words = ['clone', 'export', machine.mac, whole, '--state', stateFolder]
  await runCommand([slipway, ...words], { name: 'slipway clone export' })
  await runCommand(['e2fsck', '-fn', `${whole}?offset=${debianRootOffsetBytes}`], { name: 'e2fsck' })
}

/** `slipway target`: one disk, written in place. */
class SecondTarget {
  readonly path: string
  readonly #start: () => Child
  #child: Child
  #printed = ''

  private constructor(path: string, start: () => Child) {
    this.path = path
    this.#start = start
    this.#child = start()
  }

  static async start(network: LabNetwork, folder: string): Promise<SecondTarget> {
    const path = join(folder, 'second.img')
    const file = await open(path, 'wx')
    await file.truncate(second.bytes)
    await file.close()
    const secretFiles = [join(folder, 'secret'), join(folder, 'our-secret')] as const
    await writeFile(secretFiles[0], chap.secret, { mode: 0o600 })
    await writeFile(secretFiles[1], chap.ourSecret, { mode: 0o600 })
    const line = [
      ...[slipway, 'target', path, '--in-place', '--name', second.name],
      ...['--listen', `${lab.serverAddress}:${second.port}`],
      ...['--chap', chap.user, '--chap-secret-file', secretFiles[0]],
      ...['--mutual', chap.ourUser, '--mutual-secret-file', secretFiles[1]],
    ]
    const target = new SecondTarget(path, () => network.start(line, { name: 'slipway target' }))
    await target.#becomesReady()
    return target
  }

  printed(): string {
    return this.#printed
  }

  async crash(): Promise<void> {
    await this.#child.stop('SIGKILL')
  }

  async startAgain(): Promise<void> {
    this.#printed = ''
    this.#child = this.#start()
    await this.#becomesReady()
  }

  async stop(): Promise<void> {
    expect(await this.#child.stop('SIGINT', 15_000)).toEqual({ code: 0, signal: null })
  }

  async #becomesReady(): Promise<void> {
    this.#child.output.on('data', (text) => {
      this.#printed += String(text)
    })
    await expect.poll(() => this.#printed, { timeout: 30_000 }).toContain('Ctrl-C stops it')
  }
}
