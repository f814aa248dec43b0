import { createPrivateKey, X509Certificate } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { OperationError } from '../base/errors.ts'
import { seededRandom } from '../base/random.ts'
import { Secret } from '../base/secret.ts'
import { derValue } from '../disk/der.ts'
import { systemHash } from '../host/hash.ts'
import { systemKeys } from '../host/keys.ts'
import {
  checkServerCertificate,
  createAuthority,
  exportCertificate,
  type Identity,
  importAuthority,
  issueLeaf,
  renewalReason,
  type TrustPorts,
} from './authority.ts'
import { fingerprintOf, isSignedBy, makeCertificate, readCertificate } from './certificate.ts'
import { efiSignatureList } from './efi-signature-list.ts'
import { decodePem, encodePem } from './pem.ts'
import { importSiteAuthority, openSiteTrust, rotateSiteAuthority, type TrustFiles } from './site.ts'
import { dayMs, decodeTime, encodeTime, formatDay } from './time.ts'

const next = seededRandom(1)
const ports: TrustPorts = {
  keys: systemKeys,
  hash: systemHash,
  random: { bytes: (count) => Uint8Array.from({ length: count }, () => Math.floor(next() * 256)) },
}
const nowMs = Date.UTC(2026, 0, 15, 12)

/** As OpenSSL makes one of a user's own: named as the user says, and again the same. */
async function namedAuthority(commonName: string): Promise<Identity> {
  const key = await systemKeys.generate('rsa3072')
  const terms = { profile: 'authority', commonName, names: { dns: [], ip: [] }, subjectKey: key } as const
  const dates = { notBeforeMs: nowMs - dayMs, notAfterMs: nowMs + 3650 * dayMs }
  return {
    certificate: makeCertificate({ ...terms, ...dates, serial: ports.random.bytes(8).fill(1, 0, 1) }, systemHash),
    key,
  }
}

const names = { dns: ['boot.lab', 'slipway'], ip: ['192.168.77.1'] }
const authority = await createAuthority({ name: 'Test CA', nowMs }, ports)
const server = await issueLeaf(authority, { profile: 'server', keyKind: 'p256', names, nowMs }, ports)
const pemOf = ({ certificate }: Identity): string => exportCertificate(certificate)

describe('certificates, judged by OpenSSL', () => {
  test('the authority signs itself, and may sign others', () => {
    const judged = new X509Certificate(pemOf(authority))
    expect(judged.ca).toBe(true)
    expect(judged.verify(judged.publicKey)).toBe(true)
    expect(judged.subject).toMatch(/^O=Slipway\nCN=Test CA [0-9a-f]{6}$/)
    expect(judged.publicKey.asymmetricKeyDetails?.modulusLength).toBe(3072)
    expect(judged.fingerprint256.replaceAll(':', '').toLowerCase()).toBe(
      Buffer.from(fingerprintOf(authority.certificate, systemHash)).toString('hex'),
    )
  })

  test.for(['rsa3072', 'p256'] as const)('a server certificate with a key of %s', async (keyKind) => {
    const leaf = await issueLeaf(authority, { profile: 'server', keyKind, names, nowMs }, ports)
    const judged = new X509Certificate(pemOf(leaf))
    const issuer = new X509Certificate(pemOf(authority))
    expect(judged.ca).toBe(false)
    expect(judged.checkIssued(issuer)).toBe(true)
    expect(judged.verify(issuer.publicKey)).toBe(true)
    expect(judged.subjectAltName).toBe('DNS:boot.lab, DNS:slipway, IP Address:192.168.77.1')
    expect(judged.checkIP('192.168.77.1')).toBe('192.168.77.1')
    expect(judged.checkHost('boot.lab')).toBe('boot.lab')
    expect(judged.checkHost('other.lab')).toBeUndefined()
    expect(judged.keyUsage).toEqual(['1.3.6.1.5.5.7.3.1'])
    expect(judged.checkPrivateKey(createPrivateKey(leaf.key.exportPem().reveal()))).toBe(true)
    expect(new Date(judged.validFrom).getTime()).toBe(nowMs - 7 * dayMs)
    expect(new Date(judged.validTo).getTime()).toBe(nowMs + 397 * dayMs)
    expect(isSignedBy(leaf.certificate, authority.certificate, systemKeys)).toBe(true)
    expect(isSignedBy(leaf.certificate, leaf.certificate, systemKeys)).toBe(false)
  })

  test('a leaf never outlives its authority, and an authority that has ended signs nothing', async () => {
    const late = authority.certificate.notAfterMs - 10 * dayMs
    const terms = { profile: 'server', keyKind: 'p256', names } as const
    const leaf = await issueLeaf(authority, { ...terms, nowMs: late }, ports)
    expect(leaf.certificate.notAfterMs).toBe(authority.certificate.notAfterMs)
    await expect(issueLeaf(authority, { ...terms, nowMs: late + 20 * dayMs }, ports)).rejects.toMatchObject({
      code: 'authorityExpired',
    })
  })

  test.for([
    '*.lab',
    '',
    'a b',
    '-a',
    'a..b',
    'ü.lab',
    `${'a'.repeat(64)}.lab`,
  ])('no certificate for "%s"', async (name) => {
    const terms = { profile: 'server', keyKind: 'p256', names: { dns: [name], ip: [] }, nowMs } as const
    await expect(issueLeaf(authority, terms, ports)).rejects.toMatchObject({ code: 'nameInvalid' })
  })
})

describe('renewalReason', () => {
  const wanted = { issuer: authority.certificate, names, nowMs }

  test('a good leaf is kept, one that ends soon, has other names or another issuer is not', async () => {
    expect(renewalReason(server.certificate, wanted, systemKeys)).toBeUndefined()
    expect(renewalReason(server.certificate, { ...wanted, nowMs: nowMs + 264 * dayMs }, systemKeys)).toBeUndefined()
    expect(renewalReason(server.certificate, { ...wanted, nowMs: nowMs + 266 * dayMs }, systemKeys)).toMatch(
      /ends on 2027-02-16/,
    )
    expect(renewalReason(server.certificate, { ...wanted, nowMs: nowMs - 30 * dayMs }, systemKeys)).toMatch(/future/)
    expect(renewalReason(server.certificate, { ...wanted, names: { dns: ['x'], ip: [] } }, systemKeys)).toMatch(/names/)
    const other = await createAuthority({ name: 'Test CA', nowMs }, ports)
    expect(renewalReason(server.certificate, { ...wanted, issuer: other.certificate }, systemKeys)).toMatch(
      /another authority/,
    )
  })
})

describe('what others made', () => {
  const keyPem = authority.key.exportPem()

  test('an authority goes out and comes in again', () => {
    const back = importAuthority({ certificatePem: pemOf(authority), keyPem, nowMs }, systemKeys)
    expect(back.certificate).toEqual(authority.certificate)
  })

  test.for([
    ['no PEM', 'text', keyPem, 'certificateUnreadable'],
    ['a cut PEM', '-----BEGIN CERTIFICATE-----\nMIIB', keyPem, 'certificateUnreadable'],
    ['base64 of nothing', encodePem('CERTIFICATE', Uint8Array.of(1, 2, 3)), keyPem, 'certificateUnreadable'],
    ['a leaf', pemOf(server), server.key.exportPem(), 'notAnAuthority'],
    ['another key', pemOf(authority), server.key.exportPem(), 'keyMismatch'],
    [
      'no key',
      pemOf(authority),
      new Secret('-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----'),
      'keyUnreadable',
    ],
    ['an encrypted key', pemOf(authority), new Secret('-----BEGIN ENCRYPTED PRIVATE KEY-----\n'), 'keyUnreadable'],
  ] as const)('%s is refused', ([, certificatePem, key, code]) => {
    try {
      importAuthority({ certificatePem, keyPem: key, nowMs }, systemKeys)
      expect.unreachable()
    } catch (error) {
      expect(error).toMatchObject({ code })
      expect((error as OperationError).hint).not.toBe('')
      expect((error as OperationError).message).not.toContain('BEGIN PRIVATE')
    }
  })

  test('one that is over, or has not begun because the clock is in 1970, is refused with the date', () => {
    const at = (when: number): unknown =>
      importAuthority({ certificatePem: pemOf(authority), keyPem, nowMs: when }, systemKeys)
    expect(() => at(Date.UTC(2060, 0, 1))).toThrow(/expired on 2046-01-10/)
    expect(() => at(0)).toThrow(/valid only from 2026-01-08/)
  })

  test('a server certificate of the user is checked: chain, key, names', () => {
    const given = { chainPem: pemOf(server) + pemOf(authority), keyPem: server.key.exportPem(), names, nowMs }
    expect(checkServerCertificate(given, systemKeys).chain.length).toBe(2)
    const codeOf = (changed: object): unknown => {
      try {
        checkServerCertificate({ ...given, ...changed }, systemKeys)
      } catch (error) {
        return error instanceof OperationError ? error.code : error
      }
      return 'accepted'
    }
    expect(codeOf({ chainPem: pemOf(server) + pemOf(server) })).toBe('chainBroken')
    expect(codeOf({ names: { dns: ['elsewhere.lab'], ip: [] } })).toBe('nameNotCovered')
    expect(codeOf({ keyPem })).toBe('keyMismatch')
    expect(codeOf({ nowMs: nowMs + 500 * dayMs })).toBe('certificateExpired')
  })

  test('changed bytes are a certificate or are refused, never anything else', () => {
    const original = server.certificate.der
    fc.assert(
      fc.property(
        fc.nat(original.byteLength - 1),
        fc.nat(255),
        fc.option(fc.nat(original.byteLength)),
        (at, value, cut) => {
          const bytes = original.slice(0, cut ?? undefined)
          if (at < bytes.byteLength) bytes[at] = value
          try {
            readCertificate(bytes)
          } catch (error) {
            expect(error).toMatchObject({ code: 'certificateUnreadable' })
          }
        },
      ),
      { numRuns: 2_000 },
    )
  })
})

describe('openSiteTrust', () => {
  const memory = (): TrustFiles & { readonly kept: Map<string, string> } => {
    const kept = new Map<string, string>()
    return {
      kept,
      read: async (name) => kept.get(name),
      write: async (name, text) => void kept.set(name, text instanceof Secret ? text.reveal() : text),
      alone: (action) => action(),
    }
  }
  const terms = { authorityName: 'Site', names, nowMs }

  test('makes everything once, keeps it, renews the leaves alone when they end', async () => {
    const files = memory()
    const first = await openSiteTrust(terms, files, ports)
    expect(first.made.length).toBe(3)
    expect(first.servers.map(({ certificate }) => certificate.algorithm)).toEqual(['rsa', 'ec'])
    const again = await openSiteTrust(terms, files, ports)
    expect(again.made).toEqual([])
    expect(again.servers[0]?.certificate.der).toEqual(first.servers[0]?.certificate.der)
    const later = await openSiteTrust({ ...terms, nowMs: nowMs + 300 * dayMs }, files, ports)
    expect(later.made).toEqual(['server-rsa.pem: it ends on 2027-02-16', 'server-p256.pem: it ends on 2027-02-16'])
    expect(later.authority.certificate.der).toEqual(first.authority.certificate.der)
  })

  test('a leaf that is damaged is made anew; an authority whose key is gone is not', async () => {
    const files = memory()
    await openSiteTrust(terms, files, ports)
    files.kept.set('server-rsa.pem', 'rubbish')
    expect((await openSiteTrust(terms, files, ports)).made).toEqual(['server-rsa.pem: there was none'])
    files.kept.delete('ca.pem')
    await expect(openSiteTrust(terms, files, ports)).rejects.toMatchObject({ code: 'authorityKeyMissing' })
  })

  test('import and rotate put another authority in, keep the old certificate, and the leaves follow', async () => {
    const files = memory()
    const first = await openSiteTrust(terms, files, ports)
    const before = new Map(files.kept)
    const wrong = { certificatePem: pemOf(authority), keyPem: server.key.exportPem(), nowMs }
    await expect(importSiteAuthority(wrong, files, ports)).rejects.toMatchObject({ code: 'keyMismatch' })
    expect(files.kept).toEqual(before)
    await importSiteAuthority({ ...wrong, keyPem: authority.key.exportPem() }, files, ports)
    const second = await openSiteTrust(terms, files, ports)
    expect(second.authority.certificate.der).toEqual(authority.certificate.der)
    expect(second.made).toEqual(
      ['server-rsa.pem', 'server-p256.pem'].map((file) => `${file}: another authority signed it`),
    )
    const former = `ca-${first.authority.certificate.serial.slice(-6)}.crt`
    expect(files.kept.get(former)).toBe(pemOf(first.authority))
    const rotated = await rotateSiteAuthority(terms, files, ports)
    expect(rotated.certificate.der).not.toEqual(authority.certificate.der)
    expect((await openSiteTrust(terms, files, ports)).made.length).toBe(2)
  })

  test('an authority with the name of the former one and another key has leaves made anew', async () => {
    const files = memory()
    for (let count = 0; count < 2; count++) {
      const own = await namedAuthority('Lab CA')
      const keyPem = own.key.exportPem()
      await importSiteAuthority({ certificatePem: pemOf(own), keyPem, nowMs }, files, ports)
      const { made, servers } = await openSiteTrust(terms, files, ports)
      expect(made).toHaveLength(2)
      for (const { certificate } of servers) expect(isSignedBy(certificate, own.certificate, systemKeys)).toBe(true)
    }
  })
})

test('times are what Date says they are, from 1970 to 2200', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: Date.UTC(2200, 0, 1) / 1000 }), (seconds) => {
      const when = seconds * 1000
      expect(decodeTime(derValue(encodeTime(when)))).toBe(when)
      expect(formatDay(when)).toBe(new Date(when).toISOString().slice(0, 10))
    }),
  )
})

test('PEM comes back as it went', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 300 }), fc.uint8Array({ minLength: 1 }), (a, b) => {
      expect(decodePem('X', `before\n${encodePem('X', a)}between\n${encodePem('X', b)}`)).toEqual([a, b])
    }),
  )
})

test('a certificate is an EFI_SIGNATURE_LIST of its own', () => {
  const owner = Uint8Array.from({ length: 16 }, (_, i) => i)
  const { der } = server.certificate
  const list = efiSignatureList([server.certificate], owner)
  const size = (value: number): string => Buffer.from(Uint32Array.of(value).buffer).toString('hex')
  expect(Buffer.from(list).toString('hex')).toBe(
    `a159c0a5e494a74a87b5ab155c2bf072${size(44 + der.byteLength)}00000000${size(16 + der.byteLength)}${Buffer.from(owner).toString('hex')}${Buffer.from(der).toString('hex')}`,
  )
})

test('a serial is written as a positive number', () => {
  const made = makeCertificate(
    {
      profile: 'client',
      commonName: 'machine',
      names: { dns: [], ip: [] },
      serial: Uint8Array.of(0xff, 1),
      notBeforeMs: nowMs,
      notAfterMs: nowMs + dayMs,
      subjectKey: server.key,
    },
    systemHash,
  )
  expect(new X509Certificate(Buffer.from(made.der)).serialNumber).toBe('FF01')
})
