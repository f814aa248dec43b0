/** In the fleet's database: which certificates were made for which machine, and the accounts of people who sign in. */
import type { DatabaseSync } from 'node:sqlite'
import { Secret } from '../base/secret.ts'
import type { Account, AccountStore } from '../fleet/accounts.ts'
import type { CertificateStore, MachineCertificate } from '../fleet/certificates.ts'

/** `database` has the tables: fleet-store.ts. */
export function createProofStore(database: DatabaseSync): CertificateStore & AccountStore {
  const columns = 'fingerprint, mac, serial, issued_ms, not_after_ms, revoked_ms'
  const certificate = database.prepare(`SELECT ${columns} FROM certificate WHERE fingerprint = ?`)
  const certificates = database.prepare(`SELECT ${columns} FROM certificate ORDER BY issued_ms, fingerprint`)
  const putCertificate = database.prepare(`INSERT OR REPLACE INTO certificate (${columns}) VALUES (?, ?, ?, ?, ?, ?)`)
  const account = database.prepare('SELECT name, password, made_ms FROM account WHERE name = ?')
  const accounts = database.prepare('SELECT name, password, made_ms FROM account ORDER BY name')
  const putAccount = database.prepare('INSERT OR REPLACE INTO account (name, password, made_ms) VALUES (?, ?, ?)')
  const removeAccount = database.prepare('DELETE FROM account WHERE name = ?')
  return {
    certificates: () => certificates.all().map(certificateOf),
    certificate: (fingerprint) => {
      const row = certificate.get(fingerprint)
      return row === undefined ? undefined : certificateOf(row)
    },
    putCertificate: ({ fingerprint, mac, serial, issuedMs, notAfterMs, revokedMs }) => {
      putCertificate.run(
        fingerprint,
        mac,
        serial,
        Math.round(issuedMs),
        Math.round(notAfterMs),
        revokedMs === undefined ? null : Math.round(revokedMs),
      )
    },
    accounts: () => accounts.all().map(accountOf),
    account: (name) => {
      const row = account.get(name)
      return row === undefined ? undefined : accountOf(row)
    },
    putAccount: ({ name, password, madeMs }) => {
      putAccount.run(name, password.reveal(), Math.round(madeMs))
    },
    removeAccount: (name) => {
      removeAccount.run(name)
    },
  }
}

type Row = Readonly<Record<string, unknown>>

function certificateOf(row: Row): MachineCertificate {
  return {
    fingerprint: String(row['fingerprint']),
    mac: String(row['mac']),
    serial: String(row['serial']),
    issuedMs: Number(row['issued_ms']),
    notAfterMs: Number(row['not_after_ms']),
    revokedMs: row['revoked_ms'] === null ? undefined : Number(row['revoked_ms']),
  }
}

function accountOf(row: Row): Account {
  const password = new Secret(String(row['password']))
  return { name: String(row['name']), password, madeMs: Number(row['made_ms']) }
}
