/**
 * EFI_SIGNATURE_LIST (UEFI 2.10 §32.4.1): how UEFI's variables TlsCaCertificate, db and MOK, and QEMU's
 * etc/edk2/https/cacerts, hold certificates.
 */
import { assert } from '../base/assert.ts'
import type { Certificate } from './certificate.ts'

/** EFI_CERT_X509_GUID, a5c059a1-94e4-4aa7-87b5-ab155c2bf072, as it lies in memory. */
const x509Type: Uint8Array = Uint8Array.of(
  0xa1,
  0x59,
  0xc0,
  0xa5,
  0xe4,
  0x94,
  0xa7,
  0x4a,
  0x87,
  0xb5,
  0xab,
  0x15,
  0x5c,
  0x2b,
  0xf0,
  0x72,
)

/** One list for each certificate, one after the other: a list holds equal sizes only. `owner` is a GUID's 16 bytes. */
export function efiSignatureList(certificates: readonly Certificate[], owner: Uint8Array): Uint8Array {
  assert(owner.byteLength === 16, 'a GUID has 16 bytes')
  const parts = certificates.map(({ der }) => {
    // 16 type | 4 list bytes | 4 header bytes, 0 | 4 signature bytes | 16 owner | certificate
    const list = new Uint8Array(44 + der.byteLength)
    const view = new DataView(list.buffer)
    list.set(x509Type)
    view.setUint32(16, list.byteLength, true)
    view.setUint32(24, 16 + der.byteLength, true)
    list.set(owner, 28)
    list.set(der, 44)
    return list
  })
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.byteLength
  }
  return whole
}
