#!/usr/bin/env node
// Makes a fresh machine ready: `node scripts/setup.mjs [demo|test|bench]`. Runs on Node 20, before anything is
// installed, so it is plain JavaScript and imports nothing but Node. Asks for nothing that is there already.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')

/** Debian package -> a file it brings: present means nothing to do. */
const demo = {
  'qemu-system-x86': '/usr/bin/qemu-system-x86_64',
  'qemu-utils': '/usr/bin/qemu-img',
  ovmf: '/usr/share/OVMF/OVMF_CODE_4M.fd',
  ipxe: '/usr/lib/ipxe/undionly.kpxe',
  'ipxe-qemu': '/usr/lib/ipxe/qemu/pxe-virtio.rom',
  'grub-efi-amd64-bin': '/usr/lib/grub/x86_64-efi/kernel.img',
  'grub-pc-bin': '/usr/lib/grub/i386-pc/kernel.img',
  'grub-common': '/usr/bin/grub-mkimage',
  mtools: '/usr/bin/mcopy',
  dosfstools: '/usr/sbin/mkfs.fat',
  'busybox-static': '/bin/busybox',
  iproute2: '/sbin/ip',
}
const test = {
  ...demo,
  cpio: '/usr/bin/cpio',
  'u-boot-qemu': '/usr/lib/u-boot/qemu-x86_64/u-boot.rom',
  'libiscsi-bin': '/usr/bin/iscsi-test-cu',
  'qemu-block-extra': '/usr/share/doc/qemu-block-extra',
  'dnsmasq-base': '/usr/sbin/dnsmasq',
  atftp: '/usr/bin/atftp',
  curl: '/usr/bin/curl',
  socat: '/usr/bin/socat',
  'kea-admin': '/usr/sbin/perfdhcp',
  debootstrap: '/usr/sbin/debootstrap',
  e2fsprogs: '/sbin/mkfs.ext4',
  gdisk: '/sbin/sgdisk',
  nbdkit: '/usr/bin/nbdkit',
  'nginx-light': '/usr/sbin/nginx',
  tshark: '/usr/bin/tshark',
  systemd: '/usr/bin/systemd-socket-activate',
  efitools: '/usr/bin/cert-to-efi-sig-list',
  'shim-signed': '/usr/lib/shim/shimx64.efi.signed',
  'grub-efi-amd64-signed': '/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed',
  'systemd-boot-efi': '/usr/lib/systemd/boot/efi/systemd-bootx64.efi',
  pxelinux: '/usr/lib/PXELINUX/pxelinux.0',
  'syslinux-common': '/usr/lib/syslinux/memdisk',
}
/** Only the tests that somebody's own builds of iPXE make possible boot another processor. */
if (process.env.SLIPWAY_TEST_IPXE !== undefined) test['qemu-system-arm'] = '/usr/bin/qemu-system-aarch64'
const bench = {
  ...test,
  tgt: '/usr/sbin/tgtd',
  'kea-dhcp4-server': '/usr/sbin/kea-dhcp4',
  'tftpd-hpa': '/usr/sbin/in.tftpd',
  gcc: '/usr/bin/cc',
  'libc6-dev': '/usr/include/stdio.h',
}
const profiles = { demo, test, bench }

const profile = process.argv[2]
if (profile !== undefined && !(profile in profiles)) {
  fail(`There is no set-up called ${profile}.`, `Use one of: ${Object.keys(profiles).join(', ')}.`)
}
installPackages()
if (profile !== undefined) installDebianPackages(profiles[profile])

/** npm ci, unless node_modules is as new as the lock file says. */
function installPackages() {
  const lock = join(root, 'package-lock.json')
  const stamp = join(root, 'node_modules', '.slipway-setup')
  const wanted = createHash('sha256').update(readFileSync(lock)).digest('hex')
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted && existsSync(join(root, 'node_modules/.bin/node'))) {
    return
  }
  console.log('Installing npm packages (once) ...')
  const npm = spawnSync('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: root, stdio: 'inherit' })
  if (npm.status !== 0) fail('npm could not install the packages.', 'Look at what it printed above, then run `npm ci`.')
  writeFileSync(stamp, wanted)
}

function installDebianPackages(files) {
  const missing = Object.entries(files)
    .filter(([, file]) => !existsSync(file))
    .map(([name]) => name)
  if (missing.length === 0) return
  const command = `apt-get install --no-install-recommends ${missing.join(' ')}`
  if (!existsSync('/usr/bin/apt-get')) fail(`Missing on this machine: ${missing.join(', ')}.`, 'Install them your way.')
  if (process.getuid() !== 0) fail(`Missing on this machine: ${missing.join(', ')}.`, `As root: ${command}`)
  console.log(`Installing Debian packages (once): ${missing.join(' ')}`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  // Servers that a package would start on its own must not: they would take our ports.
  const policy = '/usr/sbin/policy-rc.d'
  const ownPolicy = !existsSync(policy)
  if (ownPolicy) writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    run('apt-get', ['update', '-q'], env, true)
    if (!run('apt-get', ['install', '-q', '-y', '--no-install-recommends', ...missing], env, true)) {
      fail('apt-get could not install what is missing.', `Try by hand: ${command}`)
    }
  } finally {
    if (ownPolicy) spawnSync('rm', ['-f', policy])
  }
}

function run(program, args, env, quiet) {
  const done = spawnSync(program, args, { env, encoding: 'utf8', stdio: quiet ? 'pipe' : 'inherit' })
  if (done.status !== 0) console.error(`${done.stdout ?? ''}${done.stderr ?? ''}`)
  return done.status === 0
}

function fail(what, next) {
  console.error(`slipway set-up: ${what}\n  ${next}`)
  process.exit(1)
}
