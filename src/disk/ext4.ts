/**
 * ext2, ext3 and ext4, read only (Linux, Documentation/filesystems/ext4). Extents and block maps, directories by a
 * linear walk (a hashed directory is a linear one to who ignores the hashes), symbolic links, inline data. What its
 * `incompatible` features say must be understood and is not, is refused by name.
 */
import { malformed, unsupported } from './disk-error.ts'
import { Fields, textOf } from './fields.ts'
import { type DirectoryEntry, type FileSystem, pathParts } from './file-system.ts'
import { directoryBytesMax, extentDepthMax, fileRunCountMax, pathBytesMax, symlinkCountMax } from './limits.ts'
import { type ByteSource, type Run, readWhole, sourceOfBytes, sourceOfRuns } from './source.ts'

const superblockOffset = 1024
const magic = 0xef53

/** s_feature_incompat. Those with true are understood, or need nothing from a reader. */
const incompatible: ReadonlyArray<readonly [bit: number, name: string, understood: boolean]> = [
  [0x1, 'compression', false],
  [0x2, 'filetype', true],
  [0x4, 'recover', true],
  [0x8, 'journal_dev', false],
  [0x10, 'meta_bg', true],
  [0x40, 'extents', true],
  [0x80, '64bit', true],
  [0x100, 'mmp', true],
  [0x200, 'flex_bg', true],
  [0x400, 'ea_inode', true],
  [0x1000, 'dirdata', false],
  [0x2000, 'metadata_csum_seed', true],
  [0x4000, 'large_dir', true],
  [0x8000, 'inline_data', true],
  // Single files are encrypted, not the file system; such a file is refused when it is opened.
  [0x10000, 'encrypt', true],
  [0x20000, 'casefold', true],
]
const feature = { recover: 0x4, metaBg: 0x10, extents: 0x40, is64bit: 0x80 } as const
/** s_feature_compat: has_journal. */
const compatJournal = 0x4
const inodeFlag = { encrypted: 0x800, extents: 0x80000, inlineData: 0x10000000 } as const
const rootInode = 2
const extentMagic = 0xf30a

interface Geometry {
  readonly blockBytes: number
  readonly blockCount: number
  readonly inodeCount: number
  readonly inodesPerGroup: number
  readonly inodeBytes: number
  readonly descriptorBytes: number
  readonly firstDataBlock: number
  readonly blocksPerGroup: number
  /** Groups from this one on keep their descriptors with themselves (meta_bg); Infinity without it. */
  readonly firstMetaGroup: number
}

interface Inode {
  readonly kind: DirectoryEntry['kind']
  readonly sizeBytes: number
  readonly flags: number
  /** i_block: 60 bytes of extent tree, block map, link target or inline data. */
  readonly block: Uint8Array
  readonly fields: Fields
}

/** Undefined when it is not ext at all. @throws {DiskError} */
export async function openExt4(source: ByteSource): Promise<FileSystem | undefined> {
  if (source.sizeBytes < superblockOffset + 1024) return undefined
  const superblock = new Fields('ext4', await source.read(superblockOffset, 1024))
  if (superblock.u16(56) !== magic) return undefined
  return new Ext4(source, superblock)
}

class Ext4 implements FileSystem {
  readonly kind: 'ext2' | 'ext3' | 'ext4'
  readonly label: string
  readonly uuid: string
  readonly notes: readonly string[]
  readonly #source: ByteSource
  readonly #geometry: Geometry

  constructor(source: ByteSource, superblock: Fields) {
    const features = superblock.u32(96)
    let unknown = features
    for (const [bit, name, understood] of incompatible) {
      unknown &= ~bit
      if ((features & bit) !== 0 && !understood) throw unsupported('ext4', `the feature ${name}`)
    }
    if (unknown !== 0) throw unsupported('ext4', `unknown incompatible features 0x${(unknown >>> 0).toString(16)}`)
    this.#source = source
    this.#geometry = geometryOf(superblock, features)
    const hasJournal = (superblock.u32(92) & compatJournal) !== 0
    this.kind = (features & feature.extents) !== 0 ? 'ext4' : hasJournal ? 'ext3' : 'ext2'
    this.label = superblock.ascii(120, 16)
    // A UUID here is as it is printed, not UEFI's mixed order.
    const hex = Array.from(superblock.slice(104, 16), (byte) => byte.toString(16).padStart(2, '0')).join('')
    this.uuid = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
    const notes: string[] = []
    if ((features & feature.recover) !== 0) notes.push('was not unmounted: its journal holds changes not seen here')
    if ((superblock.u16(58) & 2) !== 0) notes.push('the kernel saw errors in it: run e2fsck')
    this.notes = notes
  }

  async list(path: string): Promise<readonly DirectoryEntry[] | undefined> {
    const found = await this.#find(path, true)
    if (found === undefined || found.inode.kind !== 'directory') return undefined
    const entries: DirectoryEntry[] = []
    for (const [name, number] of await this.#names(found.inode)) {
      if (name === '.' || name === '..') continue
      const { kind, sizeBytes } = await this.#inode(number)
      entries.push({ name, kind, sizeBytes })
    }
    return entries
  }

  async open(path: string): Promise<ByteSource | undefined> {
    const found = await this.#find(path, true)
    return found === undefined || found.inode.kind !== 'file' ? undefined : this.#content(found.inode)
  }

  async stat(path: string): Promise<DirectoryEntry | undefined> {
    const found = await this.#find(path, false)
    if (found === undefined) return undefined
    const { kind, sizeBytes } = found.inode
    const entry = { name: found.name, kind, sizeBytes }
    return kind === 'symlink' ? { ...entry, linkTarget: await this.#linkTarget(found.inode) } : entry
  }

  async #find(
    path: string,
    followLast: boolean,
  ): Promise<{ readonly name: string; readonly inode: Inode } | undefined> {
    const todo = pathParts(path)
    const root = { name: '/', inode: await this.#inode(rootInode) }
    // Where the walk stands, from the root down: '..' goes up it, as a relative link expects.
    const walked = [root]
    let links = 0
    for (let part = todo.shift(); part !== undefined; part = todo.shift()) {
      const here = walked.at(-1) ?? root
      if (here.inode.kind !== 'directory') return undefined
      if (part === '..') {
        if (walked.length > 1) walked.pop()
        continue
      }
      const number = (await this.#names(here.inode)).get(part)
      if (number === undefined) return undefined
      const inode = await this.#inode(number)
      if (inode.kind === 'symlink' && (todo.length > 0 || followLast)) {
        if (++links > symlinkCountMax) throw malformed('ext4', `${path} has too many symbolic links`)
        const target = await this.#linkTarget(inode)
        if (target.startsWith('/')) walked.length = 1
        todo.unshift(...pathParts(target))
        continue
      }
      walked.push({ name: part, inode })
    }
    return walked.at(-1)
  }

  async #linkTarget(inode: Inode): Promise<string> {
    if (inode.sizeBytes > pathBytesMax) throw malformed('ext4', `a symbolic link of ${inode.sizeBytes} bytes`)
    // A fast link lies where the block numbers would: it has no blocks (and no extents flag).
    const isFast = inode.sizeBytes < 60 && (inode.flags & (inodeFlag.extents | inodeFlag.inlineData)) === 0
    if (isFast) return textOf(inode.block.subarray(0, inode.sizeBytes))
    return textOf(await readWhole(await this.#content(inode), pathBytesMax))
  }

  /** Name to inode number, in the directory's own order. */
  async #names(directory: Inode): Promise<ReadonlyMap<string, number>> {
    const content = await this.#content(directory)
    const bytes = await readWhole(content, directoryBytesMax)
    const names = new Map<string, number>()
    if ((directory.flags & inodeFlag.inlineData) !== 0) {
      // An inline directory: 4 bytes parent, then entries in i_block; more entries in the attribute.
      this.#entries(bytes.subarray(4, 60), names)
      if (bytes.byteLength > 60) this.#entries(bytes.subarray(60), names)
      return names
    }
    const { blockBytes } = this.#geometry
    for (let at = 0; at < bytes.byteLength; at += blockBytes) this.#entries(bytes.subarray(at, at + blockBytes), names)
    return names
  }

  /** 4 inode | 2 record length | 1 name length | 1 type | name. Index blocks look like one big unused entry. */
  #entries(bytes: Uint8Array, names: Map<string, number>): void {
    const block = new Fields('ext4', bytes)
    let at = 0
    while (at + 8 <= bytes.byteLength) {
      const inode = block.u32(at)
      const length = block.u16(at + 4)
      // With 64 KiB blocks the length of a whole block does not fit: 0xffff and 0 mean that.
      const recordBytes = (length === 0xffff || length === 0) && bytes.byteLength === 0x10000 ? 0x10000 : length
      const nameBytes = block.u8(at + 6)
      if (recordBytes < 8 || recordBytes % 4 !== 0 || at + recordBytes > bytes.byteLength) {
        throw malformed('ext4', `a directory entry of ${recordBytes} bytes`)
      }
      if (inode !== 0) {
        if (8 + nameBytes > recordBytes) throw malformed('ext4', 'a name longer than its directory entry')
        const name = textOf(block.slice(at + 8, nameBytes))
        if (!names.has(name)) names.set(name, inode)
      }
      at += recordBytes
    }
  }

  async #inode(number: number): Promise<Inode> {
    const { inodeCount, inodesPerGroup, inodeBytes, blockBytes } = this.#geometry
    if (number < 1 || number > inodeCount) throw malformed('ext4', `inode ${number} of ${inodeCount}`)
    const group = Math.floor((number - 1) / inodesPerGroup)
    const table = await this.#inodeTable(group)
    const offset = table * blockBytes + ((number - 1) % inodesPerGroup) * inodeBytes
    const fields = new Fields('ext4', await this.#source.read(offset, inodeBytes))
    const mode = fields.u16(0)
    const kind = kindOfMode(mode)
    if (kind === undefined) throw malformed('ext4', `inode ${number} has mode 0${mode.toString(8)}`)
    // The upper half of the size is old ACL space in anything but a file (and large_dir's directories).
    const high = kind === 'file' || kind === 'directory' ? fields.u32(108) : 0
    if (high > 0x1fffff) throw malformed('ext4', `inode ${number} is larger than any file`)
    const sizeBytes = high * 2 ** 32 + fields.u32(4)
    return { kind, sizeBytes, flags: fields.u32(32), block: fields.slice(40, 60), fields }
  }

  async #inodeTable(group: number): Promise<number> {
    const { blockBytes, descriptorBytes, firstDataBlock, firstMetaGroup, blocksPerGroup } = this.#geometry
    const perBlock = Math.floor(blockBytes / descriptorBytes)
    const descriptorBlock = Math.floor(group / perBlock)
    // Descriptors follow the superblock, unless meta_bg puts each block of them into the first group it describes
    // (whose first block is a superblock copy only where sparse_super says so; block + 1 then, block otherwise).
    let block = firstDataBlock + 1 + descriptorBlock
    if (descriptorBlock >= firstMetaGroup) {
      const metaGroup = descriptorBlock * perBlock
      block = firstDataBlock + metaGroup * blocksPerGroup + (hasSuperblock(metaGroup) ? 1 : 0)
    }
    const offset = block * blockBytes + (group % perBlock) * descriptorBytes
    const descriptor = new Fields('ext4', await this.#source.read(offset, descriptorBytes))
    const high = descriptorBytes >= 64 ? descriptor.u32(40) : 0
    const table = high * 2 ** 32 + descriptor.u32(8)
    if (table === 0 || table >= this.#geometry.blockCount) throw malformed('ext4', `group ${group} has no inode table`)
    return table
  }

  async #content(inode: Inode): Promise<ByteSource> {
    if ((inode.flags & inodeFlag.encrypted) !== 0) throw unsupported('ext4', 'an encrypted file')
    if ((inode.flags & inodeFlag.inlineData) !== 0) return this.#inline(inode)
    const runs = (inode.flags & inodeFlag.extents) !== 0 ? await this.#extents(inode) : await this.#blockMap(inode)
    return sourceOfRuns('ext4', runs, inode.sizeBytes)
  }

  /** The first 60 bytes are in i_block, the rest in the extended attribute system.data, inside the inode. */
  #inline(inode: Inode): ByteSource {
    if (inode.sizeBytes <= 60) return sourceOfBytes(inode.block.subarray(0, inode.sizeBytes))
    const rest = systemData(inode.fields)
    const bytes = new Uint8Array(60 + rest.byteLength)
    bytes.set(inode.block)
    bytes.set(rest, 60)
    if (bytes.byteLength < inode.sizeBytes) throw malformed('ext4', 'inline data shorter than the file')
    return sourceOfBytes(bytes.subarray(0, inode.sizeBytes))
  }

  async #extents(inode: Inode): Promise<Run[]> {
    const builder = new RunBuilder(this.#source, this.#geometry)
    await this.#extentNode(new Fields('ext4', inode.block), extentDepthMax, builder)
    return builder.finish(inode.sizeBytes)
  }

  /** `levelsLeft` falls with every level, so that a node that leads back to itself ends. */
  async #extentNode(node: Fields, levelsLeft: number, builder: RunBuilder): Promise<void> {
    // 2 magic | 2 entries | 2 most entries | 2 depth | 4 ; then entries of 12 bytes
    if (node.u16(0) !== extentMagic) throw malformed('ext4', 'an extent tree without its magic number')
    const count = node.u16(2)
    const depth = node.u16(6)
    if (depth > levelsLeft) throw malformed('ext4', 'an extent tree too deep')
    if (count > node.u16(4)) throw malformed('ext4', 'an extent node with more entries than it holds')
    for (let i = 0; i < count; i++) {
      const at = 12 + 12 * i
      const first = node.u32(at)
      if (depth === 0) {
        // leaf: 4 first block | 2 length | 2 start, upper | 4 start, lower. Over 32768 means not yet written: zeroes.
        const length = node.u16(at + 4)
        const isWritten = length <= 32768
        const start = node.u16(at + 6) * 2 ** 32 + node.u32(at + 8)
        builder.add(first, isWritten ? length : length - 32768, isWritten ? start : null)
      } else {
        // index: 4 first block | 4 node, lower | 2 node, upper | 2
        const child = node.u16(at + 8) * 2 ** 32 + node.u32(at + 4)
        if (child >= this.#geometry.blockCount) throw malformed('ext4', `an extent node at block ${child}`)
        builder.countNode()
        const { blockBytes } = this.#geometry
        const bytes = await this.#source.read(child * blockBytes, blockBytes)
        const childNode = new Fields('ext4', bytes)
        if (childNode.u16(6) !== depth - 1) throw malformed('ext4', 'an extent tree whose depths do not count down')
        await this.#extentNode(childNode, depth - 1, builder)
      }
    }
  }

  /** ext2's way: 12 blocks, then blocks of block numbers, one, two and three deep. 0 is a hole. */
  async #blockMap(inode: Inode): Promise<Run[]> {
    const { blockBytes, blockCount } = this.#geometry
    const builder = new RunBuilder(this.#source, this.#geometry)
    const wanted = Math.ceil(inode.sizeBytes / blockBytes)
    const map = new Fields('ext4', inode.block)
    let next = 0
    const perBlock = blockBytes / 4
    const walk = async (block: number, depth: number): Promise<void> => {
      if (next >= wanted) return
      if (depth === 0) {
        if (block !== 0) builder.add(next, 1, block)
        next++
        return
      }
      if (block === 0) {
        next += perBlock ** depth
        return
      }
      if (block >= blockCount) throw malformed('ext4', `a block of block numbers at ${block}`)
      builder.countNode()
      const numbers = new Fields('ext4', await this.#source.read(block * blockBytes, blockBytes))
      for (let i = 0; i < perBlock && next < wanted; i++) await walk(numbers.u32(i * 4), depth - 1)
    }
    for (let i = 0; i < 12; i++) await walk(map.u32(i * 4), 0)
    for (let depth = 1; depth <= 3; depth++) await walk(map.u32((11 + depth) * 4), depth)
    return builder.finish(inode.sizeBytes)
  }
}

/** Collects a file's blocks in order into runs; gaps are holes. Bounds what a hostile map can make of it. */
class RunBuilder {
  readonly #source: ByteSource
  readonly #geometry: Geometry
  readonly #runs: { source: ByteSource | null; offset: number; bytes: number }[] = []
  #nextBlock = 0
  #nodeCount = 0

  constructor(source: ByteSource, geometry: Geometry) {
    this.#source = source
    this.#geometry = geometry
  }

  /** `start` null: `count` blocks of zeroes. */
  add(first: number, count: number, start: number | null): void {
    const { blockBytes, blockCount } = this.#geometry
    if (first < this.#nextBlock) throw malformed('ext4', 'extents out of order')
    if (start !== null && start + count > blockCount)
      throw malformed('ext4', `an extent at block ${start} of ${blockCount}`)
    if (first > this.#nextBlock) this.#push(null, 0, (first - this.#nextBlock) * blockBytes)
    this.#push(start === null ? null : this.#source, (start ?? 0) * blockBytes, count * blockBytes)
    this.#nextBlock = first + count
  }

  countNode(): void {
    if (++this.#nodeCount > fileRunCountMax) throw malformed('ext4', 'a file with too many blocks of map')
  }

  /** A file may end in a hole. */
  finish(sizeBytes: number): Run[] {
    const have = this.#nextBlock * this.#geometry.blockBytes
    if (have < sizeBytes) this.#push(null, 0, sizeBytes - have)
    return this.#runs
  }

  #push(source: ByteSource | null, offset: number, bytes: number): void {
    const last = this.#runs.at(-1)
    const joins =
      last !== undefined && last.source === source && (source === null || last.offset + last.bytes === offset)
    if (joins) last.bytes += bytes
    else this.#runs.push({ source, offset, bytes })
    if (this.#runs.length > fileRunCountMax) throw malformed('ext4', `a file in more than ${fileRunCountMax} pieces`)
  }
}

function geometryOf(superblock: Fields, features: number): Geometry {
  //   0 4 inodes   4 4 blocks, lower   20 4 first data block   24 4 log2(block bytes) - 10   32 4 blocks per group
  //  40 4 inodes per group   76 4 revision   88 2 inode bytes   254 2 descriptor bytes   260 4 first meta group
  // 336 4 blocks, upper
  const logBlock = superblock.u32(24)
  if (logBlock > 6) throw malformed('ext4', `blocks of 2^${logBlock + 10} bytes`)
  const blockBytes = 1024 << logBlock
  const is64bit = (features & feature.is64bit) !== 0
  const blockCount = superblock.u32(4) + (is64bit ? superblock.u32(336) * 2 ** 32 : 0)
  const inodeBytes = superblock.u32(76) === 0 ? 128 : superblock.u16(88)
  if (inodeBytes < 128 || inodeBytes > blockBytes || (inodeBytes & (inodeBytes - 1)) !== 0) {
    throw malformed('ext4', `inodes of ${inodeBytes} bytes`)
  }
  const descriptorBytes = is64bit ? superblock.u16(254) : 32
  if (descriptorBytes < 32 || descriptorBytes > 1024 || (descriptorBytes & (descriptorBytes - 1)) !== 0) {
    throw malformed('ext4', `group descriptors of ${descriptorBytes} bytes`)
  }
  const inodesPerGroup = superblock.u32(40)
  const blocksPerGroup = superblock.u32(32)
  if (inodesPerGroup === 0 || blocksPerGroup === 0) throw malformed('ext4', 'groups of nothing')
  if (!Number.isSafeInteger(blockCount * blockBytes)) throw malformed('ext4', `${blockCount} blocks`)
  return {
    blockBytes,
    blockCount,
    inodeCount: superblock.u32(0),
    inodesPerGroup,
    inodeBytes,
    descriptorBytes,
    firstDataBlock: superblock.u32(20),
    blocksPerGroup,
    firstMetaGroup: (features & feature.metaBg) !== 0 ? superblock.u32(260) : Number.POSITIVE_INFINITY,
  }
}

/** sparse_super: copies in groups 0, 1 and the powers of 3, 5 and 7. Every file system since 1999 has it. */
function hasSuperblock(group: number): boolean {
  if (group <= 1) return true
  return [3, 5, 7].some((base) => {
    let power = base
    while (power < group) power *= base
    return power === group
  })
}

function kindOfMode(mode: number): DirectoryEntry['kind'] | undefined {
  switch (mode & 0xf000) {
    case 0x8000:
      return 'file'
    case 0x4000:
      return 'directory'
    case 0xa000:
      return 'symlink'
    case 0x1000:
    case 0x2000:
    case 0x6000:
    case 0xc000:
      return 'other'
    default:
      return undefined
  }
}

/** The value of the in-inode attribute system.data (name index 7, name 'data'). */
function systemData(inode: Fields): Uint8Array {
  // After the 128 old bytes and i_extra_isize more: magic, then entries:
  // 1 name length | 1 name index | 2 value offset, from the first entry | 4 value inode | 4 value bytes | 4 hash | name
  const headerAt = 128 + inode.u16(128)
  if (inode.u32(headerAt) !== 0xea020000) throw malformed('ext4', 'inline data without its attribute')
  const base = headerAt + 4
  let at = base
  while (inode.u32(at) !== 0) {
    const nameBytes = inode.u8(at)
    if (inode.u8(at + 1) === 7 && inode.ascii(at + 16, nameBytes) === 'data') {
      return inode.slice(base + inode.u16(at + 2), inode.u32(at + 8))
    }
    at += 16 + Math.ceil(nameBytes / 4) * 4
  }
  throw malformed('ext4', 'inline data without its attribute')
}
