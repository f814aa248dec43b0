/** What a life begins with: a fresh clone, or an image of a kind that Slipway only reads and writes into. */
import type { Compression } from '../../ports/compression.ts'
import type { BlockDevice } from '../device.ts'
import { openRawDevice } from '../file.ts'
import { createClone } from '../qcow2/create.ts'
import { type BackingResolver, noBacking, openQcow2, type Qcow2Options } from '../qcow2/open.ts'
import { type HandmadeCluster, makeImage } from './handmade-image.ts'
import { sectorBytes } from './histories.ts'
import { SimulatedFile } from './simulated-file.ts'

/** Absent: the seed decides. */
export type LifeShape = {
  readonly clusterBits?: number
  readonly extendedL2?: boolean
  readonly below?: 'nothing' | 'raw' | 'packed'
  /** 'mixed': data, zero, packed clusters and holes of its own. 'snapshot': the same, and a snapshot that shares them. */
  readonly image?: 'fresh' | 'mixed' | 'snapshot' | 'version2'
  readonly diskSectors?: number
  /** Share of what is done that zeroes and discards. */
  readonly zeroShare?: number
}

/** Both ways; answers at once, because what a thread pool answers would not follow from the seed. */
export type Packing = {
  readonly compression: Compression
  pack(cluster: Uint8Array, method: 'deflate' | 'zstd'): Uint8Array
}

export type Birth = {
  readonly file: SimulatedFile
  /** What each sector shows. */
  readonly tags: readonly number[]
  /** What the snapshot shows, if there is one. */
  readonly snapshot: Uint8Array | undefined
  readonly zeroShare: number | undefined
  options(): Qcow2Options
}

const goldenTag = 40_000
const ownTag = 50_000

export async function bear(random: () => number, packing: Packing, shape: LifeShape): Promise<Birth> {
  const drawn = random()
  const image = shape.image ?? (drawn < 0.6 ? 'fresh' : drawn < 0.75 ? 'mixed' : drawn < 0.9 ? 'snapshot' : 'version2')
  const extendedL2 = image !== 'version2' && (shape.extendedL2 ?? (shape.clusterBits ?? 14) >= 14) && random() < 0.7
  const clusterBits = shape.clusterBits ?? (extendedL2 ? 14 + Math.floor(random() * 4) : 9 + Math.floor(random() * 8))
  const diskSectors = shape.diskSectors ?? 256 + Math.floor(random() * 768)
  const goldenSectors = Math.ceil(diskSectors * (random() < 0.5 ? 1 : random()))
  const below = shape.below ?? (['nothing', 'raw', 'raw', 'packed'] as const)[Math.floor(random() * 4)] ?? 'raw'
  const tags = Array.from({ length: diskSectors }, (_, i) =>
    below !== 'nothing' && i < goldenSectors ? goldenTag + i : 0,
  )
  const golden =
    below === 'nothing' ? undefined : await makeGolden(random, packing, below, contentOf(tags, 0, goldenSectors))
  const backing: BackingResolver =
    golden === undefined ? noBacking : { resolve: () => Promise.resolve({ kind: 'device', device: golden }) }
  const options = (): Qcow2Options => ({ compression: packing.compression, backing })
  const sizeBytes = diskSectors * sectorBytes
  if (image === 'fresh') {
    const file = new SimulatedFile()
    const reference = golden === undefined ? {} : { backing: { name: 'golden', format: 'raw' as const } }
    await createClone(file, { sizeBytes, clusterBits, extendedL2, ...reference })
    return { file, tags, snapshot: undefined, zeroShare: shape.zeroShare, options }
  }
  const isVersion2 = image === 'version2'
  const compression = !isVersion2 && random() < 0.5 ? 'zstd' : 'deflate'
  const pack = (cluster: Uint8Array): Uint8Array => packing.pack(cluster, compression)
  const clusters = drawClusters(random, tags, 2 ** clusterBits, isVersion2, pack)
  const content = makeImage({
    sizeBytes,
    clusterBits,
    extendedL2,
    compression,
    version: isVersion2 ? 2 : 3,
    refcountOrder: isVersion2 ? 4 : 4 + Math.floor(random() * 3),
    hasSnapshot: image === 'snapshot',
    ...(golden === undefined ? {} : { backingName: 'golden' }),
    clusters,
  })
  const snapshot = image === 'snapshot' ? contentOf(tags, 0, diskSectors) : undefined
  return { file: new SimulatedFile({ content }), tags, snapshot, zeroShare: shape.zeroShare, options }
}

/** Clusters of the image's own over what is below, and their numbers in `tags`. */
function drawClusters(
  random: () => number,
  tags: number[],
  clusterBytes: number,
  isVersion2: boolean,
  pack: (cluster: Uint8Array) => Uint8Array,
): HandmadeCluster[] {
  const perCluster = clusterBytes / sectorBytes
  return Array.from({ length: Math.ceil(tags.length / perCluster) }, (_, index): HandmadeCluster => {
    const first = index * perCluster
    const end = Math.min(tags.length, first + perCluster)
    const choice = random()
    if (choice < 0.2) return { kind: 'hole' }
    const isZero = choice < 0.4 && !isVersion2
    for (let i = first; i < end; i++) tags[i] = isZero ? 0 : ownTag + i
    if (isZero) return { kind: 'zero' }
    const bytes = new Uint8Array(clusterBytes)
    bytes.set(contentOf(tags, first, end))
    if (choice < 0.6) return { kind: 'data', bytes }
    const packed = pack(bytes)
    return packed.byteLength < clusterBytes ? { kind: 'packed', bytes: packed } : { kind: 'data', bytes }
  })
}

async function makeGolden(
  random: () => number,
  packing: Packing,
  kind: 'raw' | 'packed',
  content: Uint8Array,
): Promise<BlockDevice> {
  const disk = { readOnly: true, random, lateShare: random() }
  if (kind === 'raw') return openRawDevice(new SimulatedFile({ ...disk, content }), { readOnly: true })
  const clusterBits = 12
  const clusters: HandmadeCluster[] = []
  for (let at = 0; at < content.byteLength; at += 2 ** clusterBits) {
    const bytes = new Uint8Array(2 ** clusterBits)
    bytes.set(content.subarray(at, at + bytes.byteLength))
    clusters.push({ kind: 'packed', bytes: packing.pack(bytes, 'deflate') })
  }
  const image = makeImage({ sizeBytes: content.byteLength, clusterBits, version: 3, clusters })
  const { compression } = packing
  return openQcow2(new SimulatedFile({ ...disk, content: image }), { compression, backing: noBacking, readOnly: true })
}

function contentOf(tags: readonly number[], first: number, end: number): Uint8Array {
  const words = new Uint16Array(((end - first) * sectorBytes) / 2)
  for (let i = first; i < end; i++)
    words.fill(tags[i] ?? 0, ((i - first) * sectorBytes) / 2, ((i + 1 - first) * sectorBytes) / 2)
  return new Uint8Array(words.buffer)
}
