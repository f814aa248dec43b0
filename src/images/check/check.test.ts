import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync, gzipSync, zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { OperationError } from '../../base/errors.ts'
import type { DirectoryEntry, FileSystem } from '../../disk/file-system.ts'
import type { OpenedDisk, Volume } from '../../disk/inspect.ts'
import { sourceOfBytes } from '../../disk/source.ts'
import { systemUnpacker } from '../../host/unpack.ts'
import { checkImage } from './check-image.ts'
import type { ImageFinding } from './finding.ts'
import { listInitramfs } from './initramfs.ts'
import { checkInitramfs, checkOpenIscsi, judgeInitramfs, withSettings } from './iscsi.ts'
import { checkLoaders } from './loader.ts'
import { menuLinesOf } from './menus.ts'
import { checkNetwork } from './network.ts'
import type { Root } from './root.ts'
import { checkRootDevice } from './root-device.ts'

type Tree = Readonly<Record<string, string | Uint8Array | { readonly link: string }>>

/** A file system of a few files. */
function fileSystemOf(tree: Tree): FileSystem {
  const paths = Object.keys(tree)
  const clean = (path: string): string => `/${path.split('/').filter(Boolean).join('/')}`
  const bytesOf = (value: string | Uint8Array): Uint8Array =>
    typeof value === 'string' ? new TextEncoder().encode(value) : value
  const entry = (name: string, path: string): DirectoryEntry | undefined => {
    const value = tree[path]
    if (value === undefined) {
      return paths.some((each) => each.startsWith(`${path}/`)) ? { name, kind: 'directory', sizeBytes: 0 } : undefined
    }
    if (typeof value === 'object' && 'link' in value) {
      return { name, kind: 'symlink', sizeBytes: value.link.length, linkTarget: value.link }
    }
    return { name, kind: 'file', sizeBytes: bytesOf(value).byteLength }
  }
  return {
    kind: 'ext4',
    label: 'root',
    uuid: '11111111-2222-3333-4444-555555555555',
    notes: [],
    list: async (path) => {
      const prefix = clean(path) === '/' ? '/' : `${clean(path)}/`
      const names = new Set(
        paths.filter((each) => each.startsWith(prefix)).map((each) => each.slice(prefix.length).split('/')[0] ?? ''),
      )
      if (names.size === 0) return undefined
      return [...names].flatMap((name) => entry(name, prefix + name) ?? [])
    },
    open: async (path) => {
      const value = tree[clean(path)]
      return value === undefined || (typeof value === 'object' && 'link' in value)
        ? undefined
        : sourceOfBytes(bytesOf(value))
    },
    stat: async (path) => entry(clean(path).split('/').at(-1) ?? '', clean(path)),
  }
}

/** The tree with what its findings would repair. */
function repaired(tree: Tree, findings: readonly ImageFinding[]): Tree {
  const now: Record<string, Tree[string]> = { ...tree }
  for (const repair of findings.flatMap(({ repairs }) => repairs ?? [])) {
    if (repair.kind === 'copy') now[repair.to] = tree[repair.from] ?? ''
    else now[repair.path] = repair.edit(String(now[repair.path] ?? ''))
  }
  return now
}

const rootOf = (tree: Tree): Root => ({ partition: 2, fileSystem: fileSystemOf(tree) })

function diskOf(tree: Tree): OpenedDisk {
  const partition = { number: 2, type: '', name: '', id: 'part-2', offsetBytes: 0, sizeBytes: 4096, active: false }
  const volume: Volume = { number: 2, partition, content: { kind: 'fileSystem', fileSystem: fileSystemOf(tree) } }
  const bootSector = { hasSignature: true, hasCode: true }
  const table = {
    kind: 'gpt',
    sectorBytes: 512,
    diskId: '',
    partitions: [partition],
    problems: [],
    bootSector,
  } as const
  return { source: sourceOfBytes(new Uint8Array(4096)), table, tableError: undefined, volumes: [volume] }
}

const levels = (findings: readonly ImageFinding[]): string[] => findings.map(({ level, check }) => `${level} ${check}`)

/** A cpio archive in the form newc. */
function cpio(files: Readonly<Record<string, string>>): Uint8Array {
  const parts: number[] = []
  const add = (name: string, content: string): void => {
    const bytes = [...new TextEncoder().encode(content)]
    const hex = (value: number): string => value.toString(16).padStart(8, '0')
    const fields = [0, 0o100644, 0, 0, 1, 0, bytes.length, 0, 0, 0, 0, name.length + 1, 0].map(hex).join('')
    parts.push(...new TextEncoder().encode(`070701${fields}${name}\0`))
    while (parts.length % 4 !== 0) parts.push(0)
    parts.push(...bytes)
    while (parts.length % 4 !== 0) parts.push(0)
  }
  for (const [name, content] of Object.entries(files)) add(name, content)
  add('TRAILER!!!', '')
  while (parts.length % 512 !== 0) parts.push(0)
  return Uint8Array.from(parts)
}

const goodInitramfs = {
  './usr/sbin/iscsistart': 'x',
  'scripts/local-top/iscsi': 'x',
  'usr/lib/modules/6.1.0/kernel/drivers/scsi/iscsi_tcp.ko': '',
  'usr/lib/modules/6.1.0/kernel/drivers/scsi/sd_mod.ko.zst': '',
  'usr/lib/modules/6.1.0/kernel/drivers/firmware/iscsi_ibft.ko': '',
  'usr/lib/modules/6.1.0/kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko': '',
  'etc/iscsi.initramfs': 'ISCSI_AUTO=true\n',
}
const iscsidConf = `# comment
node.startup = manual
node.session.timeo.replacement_timeout = 120
node.conn[0].timeo.noop_out_interval = 5
#node.conn[0].timeo.noop_out_timeout = 5
`
const goodConf = withSettings(iscsidConf, [
  ['node.conn[0].timeo.noop_out_interval', '0'],
  ['node.conn[0].timeo.noop_out_timeout', '0'],
  ['node.session.timeo.replacement_timeout', '86400'],
])
const goodTree: Tree = {
  '/etc/os-release': 'ID=debian\nNAME=Debian\n',
  '/etc/fstab':
    '# <file system> <mount point>\nUUID=11111111-2222-3333-4444-555555555555 / ext4 errors=remount-ro 0 1\n',
  '/etc/machine-id': '',
  '/boot/grub/grub.cfg':
    'menuentry "x" {\n\tlinux /boot/vmlinuz-6.1.0 root=UUID=11111111-2222-3333-4444-555555555555 ro quiet\n\tinitrd /boot/initrd.img-6.1.0\n}\n',
  '/boot/vmlinuz-6.1.0': new Uint8Array(5000),
  '/boot/initrd.img-6.1.0': new Uint8Array(
    Buffer.concat([cpio({ 'kernel/x86/microcode': 'm' }), zstdCompressSync(cpio(goodInitramfs))]),
  ),
  '/usr/sbin/iscsid': 'x',
  '/etc/iscsi/iscsid.conf': goodConf,
}

describe('listInitramfs', () => {
  test.for([
    ['bare', (bytes: Uint8Array): Uint8Array => bytes],
    ['gzip', (bytes: Uint8Array): Uint8Array => gzipSync(bytes)],
    ['zstd', (bytes: Uint8Array): Uint8Array => zstdCompressSync(bytes)],
    [
      'zstd behind microcode',
      (bytes: Uint8Array): Uint8Array => Buffer.concat([cpio({ early: '' }), zstdCompressSync(bytes)]),
    ],
    ['gzip with padding', (bytes: Uint8Array): Uint8Array => Buffer.concat([gzipSync(bytes), Buffer.alloc(300)])],
  ] as const)('%s', async ([, pack]) => {
    const listing = await listInitramfs(
      new Uint8Array(pack(cpio(goodInitramfs))),
      ['etc/iscsi.initramfs'],
      systemUnpacker,
    )
    expect([...listing.names]).toEqual(
      expect.arrayContaining(Object.keys(goodInitramfs).map((name) => name.replace('./', ''))),
    )
    expect(listing.texts.get('etc/iscsi.initramfs')).toBe('ISCSI_AUTO=true\n')
    expect(listing.unreadPacking).toBeUndefined()
  })

  test('what cannot be unpacked here is said so', async () => {
    const packed = Uint8Array.of(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 1, 2, 3)
    const listing = await listInitramfs(packed, [], { unpack: async () => undefined })
    expect(listing.unreadPacking).toBe('xz')
  })

  test('any bytes give a listing or an OperationError', async () => {
    const original = cpio(goodInitramfs)
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(original.byteLength - 1), fc.nat(255)), { maxLength: 5 }),
        async (changes) => {
          const bytes = original.slice()
          for (const [at, value] of changes) bytes[at] = value
          await listInitramfs(bytes, [], systemUnpacker).catch((error: unknown) => {
            expect(error).toBeInstanceOf(OperationError)
          })
        },
      ),
      { numRuns: 300 },
    )
  })
})

describe('judgeInitramfs', () => {
  const judge = (
    files: readonly string[],
    commandLines: readonly string[] = [],
    settings = 'ISCSI_AUTO=true',
  ): string[] => {
    const texts = new Map([['etc/iscsi.initramfs', settings]])
    const listing = { names: new Set(files.map((file) => file.replace('./', ''))), texts, unreadPacking: undefined }
    return levels(judgeInitramfs({ listing, builtIn: new Set(), name: 'initrd', commandLines }))
  }
  const all = Object.keys(goodInitramfs)
  const without = (part: string): string[] => all.filter((name) => !name.includes(part))

  test('all there', () => expect(judge(all)).toEqual(['ok initramfs.iscsi', 'ok initramfs.ibft']))
  test.for([
    ['iscsistart', 'error initramfs.iscsi'],
    ['iscsi_tcp', 'error initramfs.modules'],
    ['sd_mod', 'error initramfs.modules'],
    ['e1000e', 'error initramfs.network'],
    ['iscsi_ibft', 'error initramfs.ibft'],
  ] as const)('without %s: %s', ([part, expected]) => expect(judge(without(part))).toContain(expected))
  test('the iBFT is there and not asked for, unless the command line does', () => {
    expect(judge(all, [], '')).toContain('error initramfs.unasked')
    expect(judge(all, ['root=UUID=x rd.iscsi.firmware=1'], '')).toContain('ok initramfs.ibft')
    expect(judge(all, ['iscsi_auto quiet'], '')).toContain('ok initramfs.ibft')
  })
})

describe('checkInitramfs of a unified kernel image', () => {
  /** Systemd's stub in our vectors, its section .sbat made into one that holds an initramfs. */
  function unifiedKernel(initramfs: Uint8Array): Uint8Array {
    const stub = gunzipSync(readFileSync(join(import.meta.dirname, '../../disk/vectors/uki.efi.gz')))
    const bytes = new Uint8Array(Buffer.concat([stub, initramfs]))
    const at = stub.indexOf('.sbat\0\0\0')
    bytes.set(new TextEncoder().encode('.initrd\0'), at)
    const view = new DataView(bytes.buffer)
    view.setUint32(at + 8, initramfs.byteLength, true) // VirtualSize
    view.setUint32(at + 16, initramfs.byteLength, true) // SizeOfRawData
    view.setUint32(at + 20, stub.byteLength, true) // PointerToRawData
    return bytes
  }
  const kernel = { partition: 1, path: '/EFI/Linux/tiny.efi', initrd: undefined, version: '6.1.0' }
  const judge = async (image: Uint8Array): Promise<string[]> => {
    const boot = rootOf({ [kernel.path]: image })
    return levels(await checkInitramfs({ root: rootOf(goodTree), boot, kernel, menus: [] }, systemUnpacker))
  }

  test('its own initramfs and its own command line are what counts', async () => {
    expect(await judge(unifiedKernel(cpio(goodInitramfs)))).toEqual(['ok initramfs.iscsi', 'ok initramfs.ibft'])
    expect(await judge(unifiedKernel(cpio({ ...goodInitramfs, 'etc/iscsi.initramfs': '' })))).toEqual([
      'ok initramfs.iscsi',
      'error initramfs.unasked',
    ])
  })
  test('without an initramfs inside it has none', async () => {
    const stub = gunzipSync(readFileSync(join(import.meta.dirname, '../../disk/vectors/uki.efi.gz')))
    expect(await judge(new Uint8Array(stub))).toEqual(['error initramfs'])
  })
})

describe('checkLoaders', () => {
  const judge = async (files: readonly string[], biosWorks: boolean): Promise<ImageFinding[]> => {
    const esp: Root = { ...rootOf(Object.fromEntries(files.map((file) => [file, 'x']))), partition: 1 }
    const bootableFor = [
      { firmware: 'bios', bootable: biosWorks, reason: 'B.' },
      { firmware: 'x86_64', bootable: false, reason: 'U.' },
    ] as const
    return checkLoaders({ esp: 1, bootableFor } as never, [esp])
  }
  test('only a loader that a boot entry names: how bad that is depends on what else boots, and it is copied', async () => {
    const files = ['/EFI/debian/grubx64.efi', '/EFI/debian/shimx64.efi', '/EFI/debian/fbx64.efi']
    const found = await judge(files, false)
    expect(levels(found)).toEqual(['error loader.efi'])
    expect(found[0]?.repairs).toEqual([
      { kind: 'copy', partition: 1, from: '/EFI/debian/shimx64.efi', to: '/EFI/BOOT/BOOTX64.EFI' },
      { kind: 'copy', partition: 1, from: '/EFI/debian/grubx64.efi', to: '/EFI/BOOT/grubx64.efi' },
    ])
    expect(levels(await judge(files, true))).toEqual(['ok loader', 'warning loader.efi'])
  })
  test('no loader anywhere', async () => {
    expect(levels(await judge(['/README'], false))).toEqual(['error loader'])
  })
  test('whom an image is not for is told, and is no fault', async () => {
    const found = await judge(['/README'], true)
    expect(levels(found)).toEqual(['ok loader', 'ok loader'])
    expect(found[1]?.what).toBe('x86_64: not for such machines. U.')
  })
})

describe('checkRootDevice', () => {
  const uuid = '11111111-2222-3333-4444-555555555555'
  const summary = {
    partitions: [
      { number: 1, uuid: 'AAAA-1', id: 'p1', label: 'efi', content: 'fat32' },
      { number: 2, uuid, id: 'p2', label: 'root', content: 'ext4' },
    ],
  } as never
  const found = async (tree: Tree): Promise<ImageFinding[]> =>
    checkRootDevice(rootOf(tree), summary, await menuLinesOf([rootOf(tree)]))
  const treeOf = (fstab: string, root: string): Tree => ({
    '/etc/fstab': fstab,
    '/boot/grub/grub.cfg': `\tlinux /vmlinuz root=${root} ro\n`,
  })
  test.for([
    ['UUID=aaaa-1 / ext4', 'UUID=AAAA-1', ['ok fstab', 'ok root.device']],
    ['/dev/sda2 / ext4', '/dev/vda2', ['error fstab', 'error root.device']],
    ['/dev/disk/by-path/pci-0 / ext4', 'PARTUUID=p1', ['error fstab', 'ok root.device']],
    [
      'LABEL=root / ext4\n/dev/sda1 /boot/efi vfat\n/dev/sda3 none swap\nUUID=gone /srv ext4',
      'LABEL=root',
      ['ok fstab', 'warning fstab', 'warning fstab', 'ok root.device'],
    ],
    ['UUID=other / ext4', 'UUID=AAAA-1', ['warning fstab', 'ok root.device']],
    ['# nothing', '/dev/mapper/vg-root', ['ok root.device']],
  ] as const)('%s with root=%s', async ([fstab, root, expected]) =>
    expect(levels(await found(treeOf(fstab, root)))).toEqual(expected))

  test('the repair names every partition by its UUID, in fstab, menus, and what menus are made from', async () => {
    const tree = {
      ...treeOf('/dev/sda2  / ext4 defaults 0 1\n/dev/sda1 /boot/efi vfat\n# /dev/sda2 / old\n', '/dev/sda2'),
      '/etc/default/grub': 'GRUB_TIMEOUT=5\nGRUB_DISABLE_LINUX_UUID=true\n',
      '/boot/loader/entries/a.conf': 'title x\noptions root=/dev/nvme0n1p2 ro\n',
      '/etc/kernel/cmdline': 'root=/dev/sda2 quiet\n',
    }
    const after = repaired(tree, await found(tree))
    expect(after['/etc/fstab']).toBe(
      `UUID=${uuid}  / ext4 defaults 0 1\nUUID=AAAA-1 /boot/efi vfat\n# /dev/sda2 / old\n`,
    )
    expect(after['/boot/grub/grub.cfg']).toBe(`\tlinux /vmlinuz root=UUID=${uuid} ro\n`)
    expect(after['/boot/loader/entries/a.conf']).toBe(`title x\noptions root=UUID=${uuid} ro\n`)
    expect(after['/etc/kernel/cmdline']).toBe(`root=UUID=${uuid} quiet\n`)
    expect(after['/etc/default/grub']).toBe('GRUB_TIMEOUT=5\n#GRUB_DISABLE_LINUX_UUID=true\n')
    expect((await found(after)).filter(({ level }) => level !== 'ok')).toEqual([])
  })

  test('no menu at all is said', async () => {
    expect(levels(await found({}))).toEqual(['warning root.device'])
  })
})

describe('checkNetwork', () => {
  const unit = (name: string): string => `/etc/systemd/system/multi-user.target.wants/${name}.service`
  const link = { link: '/lib/systemd/system/x' }

  test('nothing there, nothing wrong', async () => {
    expect(levels(await checkNetwork(rootOf({ '/etc/hostname': 'x' })))).toEqual(['ok network'])
  })

  test('NetworkManager, unless it is told to leave a card alone, or is masked', async () => {
    const on = { [unit('NetworkManager')]: link }
    const found = await checkNetwork(rootOf(on))
    expect(levels(found)).toEqual(['warning network.networkManager'])
    expect(levels(await checkNetwork(rootOf(repaired(on, found))))).toEqual(['ok network.networkManager'])
    const masked = { ...on, '/etc/systemd/system/NetworkManager.service': { link: '/dev/null' } }
    expect(levels(await checkNetwork(rootOf(masked)))).toEqual(['ok network'])
  })

  test('networkd with a .network that sets up a card, repaired by KeepConfiguration', async () => {
    const path = '/etc/systemd/network/eth.network'
    const on = { [unit('systemd-networkd')]: link, [path]: '[Match]\nName=e*\n\n[Network]\nDHCP=yes\n' }
    const found = await checkNetwork(rootOf(on))
    expect(levels(found)).toEqual(['warning network.networkd'])
    const after = repaired(on, found)
    expect(after[path]).toBe('[Match]\nName=e*\n\n[Network]\nKeepConfiguration=yes\nDHCP=yes\n')
    expect(levels(await checkNetwork(rootOf(after)))).toEqual(['ok network.networkd'])
    expect(levels(await checkNetwork(rootOf({ ...on, [path]: '[Match]\nName=lo\n' })))).toEqual(['ok network'])
  })

  test('ifupdown: what it sets up, and what it would take down when the system stops', async () => {
    const path = '/etc/network/interfaces'
    const on = {
      '/sbin/ifup': 'x',
      [path]:
        'source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\n\nallow-hotplug ens3\nauto ens3 ens9\niface ens3 inet static\n  address 10.0.0.2/24\n\niface ens9 inet manual\n',
    }
    const found = await checkNetwork(rootOf(on))
    expect(levels(found)).toEqual(['error network.ifupdown', 'warning network.ifupdown'])
    const after = repaired(on, found)
    expect(after[path]).toBe(
      'source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\n\n#allow-hotplug ens3\n#auto ens9\n#iface ens3 inet static\n#  address 10.0.0.2/24\n\n#iface ens9 inet manual\n',
    )
    expect(levels(await checkNetwork(rootOf(after)))).toEqual(['ok network'])
    const kept = { ...on, [path]: 'auto ens3\nno-auto-down ens3\niface ens3 inet manual\n' }
    expect(levels(await checkNetwork(rootOf(kept)))).toEqual(['ok network'])
  })

  test('netplan, repaired by a file that makes its cards critical', async () => {
    const on = {
      '/etc/netplan/50-installer.yaml':
        'network:\n  version: 2\n  renderer: networkd\n  ethernets:\n    # the first\n    enp1s0:\n      dhcp4: true\n    ens3: {dhcp4: true}\n  wifis:\n    wl0:\n      dhcp4: true\n',
    }
    const found = await checkNetwork(rootOf(on))
    expect(levels(found)).toEqual(['warning network.netplan'])
    expect(found[0]?.what).toBe('netplan sets up enp1s0, ens3')
    expect(levels(await checkNetwork(rootOf(repaired(on, found))))).toEqual(['ok network.netplan'])
  })

  test('cloud-init, unless it or its network part is off', async () => {
    const on = { '/etc/cloud/cloud.cfg': 'users: []\n' }
    expect(levels(await checkNetwork(rootOf(on)))).toEqual(['warning network.cloudInit'])
    const off = { ...on, '/etc/cloud/cloud.cfg.d/99.cfg': 'network:\n  config: disabled\n' }
    expect(levels(await checkNetwork(rootOf(off)))).toEqual(['ok network.cloudInit'])
    expect(levels(await checkNetwork(rootOf({ ...on, '/etc/cloud/cloud-init.disabled': '' })))).toEqual(['ok network'])
  })
})

describe('checkOpenIscsi', () => {
  test('time-outs too short, and the repair', async () => {
    const tree = { '/sbin/iscsid': 'x', '/etc/iscsi/iscsid.conf': iscsidConf }
    const found = await checkOpenIscsi(rootOf(tree))
    expect(levels(found)).toEqual(['warning iscsid.conf'])
    expect(repaired(tree, found)['/etc/iscsi/iscsid.conf']).toBe(`# comment
node.startup = manual
node.session.timeo.replacement_timeout = 86400
node.conn[0].timeo.noop_out_interval = 0
node.conn[0].timeo.noop_out_timeout = 0
`)
    const good = rootOf({ '/sbin/iscsid': 'x', '/etc/iscsi/iscsid.conf': goodConf })
    expect(levels(await checkOpenIscsi(good))).toEqual(['ok iscsid.conf'])
  })

  test('no daemon, no configuration', async () => {
    expect(levels(await checkOpenIscsi(rootOf({})))).toEqual(['error iscsid'])
    expect(levels(await checkOpenIscsi(rootOf({ '/usr/sbin/iscsid': 'x' })))).toEqual(['warning iscsid.conf'])
  })

  test('a setting goes where it stood, once, or to the end', () => {
    expect(withSettings('a = 1\n#b = 2\na = 3\n', [['a', '9']])).toBe('a = 9\n#b = 2\n')
    expect(withSettings('#b = 2\n', [['b', '9']])).toBe('b = 9\n')
    expect(withSettings('x = 1', [['b', '9']])).toBe('x = 1\nb = 9\n')
  })
})

describe('checkImage', () => {
  test('an image made ready has nothing but ok findings', async () => {
    const findings = await checkImage(diskOf(goodTree), systemUnpacker)
    expect(findings.filter(({ level }) => level !== 'ok')).toEqual([])
    expect(findings.map(({ check }) => check)).toEqual(
      expect.arrayContaining([
        'loader',
        'uboot',
        'fstab',
        'root.device',
        'initramfs.iscsi',
        'initramfs.ibft',
        'iscsid.conf',
        'network',
        'identity',
      ]),
    )
  })

  test('a plain installation: everything that would break is named, with what to do', async () => {
    const plain: Tree = {
      ...goodTree,
      '/etc/fstab': '/dev/sda2 / ext4 defaults 0 1\n',
      '/etc/machine-id': '0123456789abcdef0123456789abcdef\n',
      '/boot/initrd.img-6.1.0': new Uint8Array(gzipSync(cpio({ init: '' }))),
      '/etc/iscsi/iscsid.conf': iscsidConf,
    }
    const findings = await checkImage(diskOf(plain), systemUnpacker)
    const bad = findings.filter(({ level }) => level !== 'ok')
    expect(bad.map(({ check }) => check)).toEqual([
      'uboot',
      'fstab',
      'initramfs.iscsi',
      'initramfs.modules',
      'initramfs.network',
      'initramfs.ibft',
      'iscsid.conf',
      'identity',
    ])
    for (const { whyItMatters, doNext } of bad) expect([whyItMatters, doNext]).not.toContain('')
  })

  test('a damaged initramfs ends the checks of it and no other', async () => {
    const broken = { ...goodTree, '/boot/initrd.img-6.1.0': Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3) }
    const findings = await checkImage(diskOf(broken), systemUnpacker)
    expect(findings.filter(({ level }) => level !== 'ok').map(({ check }) => check)).toEqual(['uboot', 'initramfs'])
  })

  test('an image without a readable root says that nothing more can be told', async () => {
    expect(levels(await checkImage(diskOf({ '/hello': 'x' }), systemUnpacker))).toContain('warning root')
  })

  test('under U-Boot: which kernel would be started, or why none could', async () => {
    const found = async (tree: Tree): Promise<string> => {
      const findings = await checkImage(diskOf(tree), systemUnpacker)
      return findings.find(({ check }) => check === 'uboot')?.what ?? ''
    }
    expect(await found(goodTree)).toBe(
      'under U-Boot Linux finds its root with start = "kernel": /boot/vmlinuz-6.1.0, as /boot/grub/grub.cfg has it',
    )
    expect(await found({ '/hello': 'x' })).toContain('no kernel could be started: no boot menu that names a kernel')
    const plain = { ...goodTree, '/boot/initrd.img-6.1.0': new Uint8Array(gzipSync(cpio({ init: '' }))) }
    expect(await found(plain)).toContain('/boot/initrd.img-6.1.0 has no iSCSI')
    const bare = { ...goodTree, '/boot/grub/grub.cfg': 'linux /boot/vmlinuz-6.1.0 ro' }
    expect(await found(bare)).toContain('it has no initramfs')
  })
  test('of many kernels the newest three are looked into', async () => {
    const tree: Record<string, string | Uint8Array> = { '/etc/os-release': 'ID=x' }
    for (const version of ['5.10.0-9', '5.10.0-10', '6.1.0-2', '6.1.0-13'])
      tree[`/boot/vmlinuz-${version}`] = new Uint8Array(5000)
    const findings = await checkImage(diskOf(tree), systemUnpacker)
    const named = findings.filter(({ check }) => check === 'initramfs').map(({ what }) => what)
    expect(named.map((what) => what.split(' ')[0])).toEqual([
      '/boot/vmlinuz-6.1.0-13',
      '/boot/vmlinuz-6.1.0-2',
      '/boot/vmlinuz-5.10.0-10',
    ])
  })
})
