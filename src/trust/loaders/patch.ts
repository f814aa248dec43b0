/**
 * Copies of a user's iPXE with one thing changed, without a compiler.
 *
 * Two changes are known. U-Boot runs no timer interrupt, so an iPXE that rests the processor until one comes rests for
 * ever (README.iscsi's nap.h; Debian's snponly.efi stops at "Press Ctrl-B"): the resting instruction becomes one that
 * does nothing. And an iPXE trusts for HTTPS whoever's certificate has one of the SHA-256 fingerprints in it: the public
 * root's becomes our CA's.
 *
 * Neither is done to a signed file: its signature would no longer hold, and a firmware that asks for one would refuse it.
 */
import { OperationError } from '../../base/errors.ts'
import { type PeImage, readPe } from '../../disk/pe.ts'
import { sourceOfBytes } from '../../disk/source.ts'
import { hexOf, offsetsOf } from './bytes.ts'
import { identifyLoader, type KnownRoot, type Loader, sleepOffsets } from './identify.ts'
import { pinCountMax } from './limits.ts'

export interface PatchedLoader {
  readonly bytes: Uint8Array
  readonly changes: readonly Change[]
}

/** What differs from the file that was given. */
export interface Change {
  readonly offset: number
  /** In hex. */
  readonly before: string
  readonly after: string
  readonly why: string
}

/**
 * A copy that does not rest the processor, for U-Boot.
 * @throws {OperationError} loaderNotIpxe, loaderSigned, patternNotOnce
 */
export async function withoutSleep(bytes: Uint8Array): Promise<PatchedLoader> {
  const { image } = await unsignedIpxe(bytes, 'U-Boot machines need an unsigned copy of this iPXE.')
  const places = image.sections
    .filter(({ executable }) => executable)
    .flatMap(({ offset, sizeBytes }) => {
      return sleepOffsets(bytes.subarray(offset, offset + sizeBytes), image).map((at) => offset + at)
    })
  const place = places[0]
  if (place === undefined || places.length > 1) {
    throw new OperationError(
      'patternNotOnce',
      `The instruction that rests the processor is in this iPXE ${places.length} times, and must be there once.`,
      'Build an iPXE with the nap.h that `slipway loaders kit` writes, and add that.',
    )
  }
  const why = 'U-Boot never wakes a resting processor'
  // x86: hlt (f4) becomes nop (90). arm64: wfi becomes nop, d503201f.
  const change: Change =
    image.architecture === 'arm64'
      ? { offset: place, before: '7f2003d5', after: '1f2003d5', why }
      : { offset: place, before: 'f4', after: '90', why }
  return apply(bytes, [change])
}

/**
 * A copy that trusts `ours` where it trusted `replaced`.
 * @throws {OperationError} loaderNotIpxe, loaderSigned, loaderNoHttps, pinNotThere
 */
export async function withTrust(
  bytes: Uint8Array,
  roots: { readonly replaced: KnownRoot; readonly ours: KnownRoot },
): Promise<PatchedLoader> {
  const { loader } = await unsignedIpxe(
    bytes,
    'A signed iPXE trusts our CA by the UEFI variable TlsCaCertificate (builds of 2025 and later), or serve a public certificate with its cross-signed chain. A UKI (kernel and initramfs in one signed file) needs no iPXE that trusts us; Slipway does not make one.',
  )
  if (loader.can.https === 'no') {
    throw new OperationError(
      'loaderNoHttps',
      'This iPXE was built without HTTPS, so there is no trust in it to replace.',
      'Take one that has HTTPS: `slipway loaders kit` writes what a build needs.',
    )
  }
  const places = offsetsOf(bytes, roots.replaced.fingerprint, pinCountMax)
  if (places.length === 0) {
    throw new OperationError(
      'pinNotThere',
      `The fingerprint of ${roots.replaced.name} is not in this iPXE: it was built to trust somebody else.`,
      'Build an iPXE with TRUST= our CA (`slipway loaders kit`), or take one that trusts the public root.',
    )
  }
  const before = hexOf(roots.replaced.fingerprint)
  const after = hexOf(roots.ours.fingerprint)
  const why = `trusts ${roots.ours.name} in place of ${roots.replaced.name}`
  return apply(
    bytes,
    places.map((offset) => ({ offset, before, after, why })),
  )
}

async function unsignedIpxe(
  bytes: Uint8Array,
  signedHint: string,
): Promise<{ readonly loader: Loader; readonly image: PeImage }> {
  const source = sourceOfBytes(bytes)
  const loader = await identifyLoader(source)
  const image = await readPe(source)
  if (loader.kind !== 'ipxe' || image === undefined) {
    const isCompressed = loader.kind === 'ipxe'
    throw new OperationError(
      'loaderNotIpxe',
      isCompressed ? 'This iPXE is for BIOS: it is compressed and cannot be changed.' : 'This is no iPXE.',
      'Only an EFI build of iPXE (.efi) can be changed.',
    )
  }
  if (loader.signed) {
    const by = loader.signers.length > 0 ? ` by ${loader.signers.join('; ')}` : ''
    throw new OperationError('loaderSigned', `This iPXE is signed${by}: a changed copy would not be.`, signedHint)
  }
  return { loader, image }
}

function apply(bytes: Uint8Array, changes: readonly Change[]): PatchedLoader {
  const copy = new Uint8Array(bytes)
  for (const { offset, after } of changes) {
    copy.set(
      (after.match(/../g) ?? []).map((pair) => Number.parseInt(pair, 16)),
      offset,
    )
  }
  return { bytes: copy, changes }
}
