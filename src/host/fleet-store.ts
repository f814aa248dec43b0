/** The fleet in SQLite: machines, and the credentials that each may use now. */
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { assert } from '../base/assert.ts'
import { Secret } from '../base/secret.ts'
import type { AccountStore } from '../fleet/accounts.ts'
import type { CertificateStore } from '../fleet/certificates.ts'
import type { BootCredentials, CredentialRing } from '../fleet/credentials.ts'
import type { Assignment, Decision, Machine, TransportPolicy } from '../fleet/machine.ts'
import type { Proof } from '../fleet/proof.ts'
import type { FleetStore } from '../fleet/store.ts'
import { atomically, type Migrations, openDatabase } from './database.ts'
import { createProofStore } from './proof-store.ts'

const migrations: Migrations = [
  `CREATE TABLE machine (
     mac TEXT PRIMARY KEY,
     name TEXT,
     uuid TEXT,
     serial TEXT,
     decision TEXT NOT NULL CHECK (decision IN ('undecided', 'admitted', 'refused')),
     rival_uuid TEXT,
     assignment TEXT,
     transport TEXT,
     first_seen_ms INTEGER NOT NULL,
     last_seen_ms INTEGER NOT NULL
   ) STRICT;
   CREATE INDEX machine_undecided ON machine (last_seen_ms) WHERE decision = 'undecided';
   CREATE TABLE credentials (
     mac TEXT PRIMARY KEY,
     ring TEXT NOT NULL
   ) STRICT`,
  `CREATE TABLE certificate (
     fingerprint TEXT PRIMARY KEY,
     mac TEXT NOT NULL,
     serial TEXT NOT NULL,
     issued_ms INTEGER NOT NULL,
     not_after_ms INTEGER NOT NULL,
     revoked_ms INTEGER
   ) STRICT;
   CREATE TABLE account (
     name TEXT PRIMARY KEY,
     password TEXT NOT NULL,
     made_ms INTEGER NOT NULL
   ) STRICT`,
  `CREATE TABLE storage_address (
     mac TEXT PRIMARY KEY,
     address INTEGER NOT NULL UNIQUE
   ) STRICT`,
  'ALTER TABLE machine ADD COLUMN loader_has_https INTEGER',
]

const machineColumns =
  'mac, name, uuid, serial, decision, rival_uuid, assignment, transport, loader_has_https, first_seen_ms, last_seen_ms'

export interface OpenFleetStore extends FleetStore {
  readonly proofs: CertificateStore & AccountStore
  close(): void
}

/** The file holds secrets: it stands in the state directory, which only its owner may enter. @throws {OperationError} */
export function openFleetStore(path: string): OpenFleetStore {
  return new SqliteFleetStore(openDatabase(path, migrations))
}

class SqliteFleetStore implements OpenFleetStore {
  readonly proofs: CertificateStore & AccountStore
  readonly #database: DatabaseSync
  readonly #selectMachine: StatementSync
  readonly #selectRing: StatementSync
  readonly #putMachine: StatementSync
  readonly #putRing: StatementSync
  readonly #selectStalestStranger: StatementSync
  readonly #dataVersion: StatementSync

  constructor(database: DatabaseSync) {
    this.#database = database
    this.#selectMachine = database.prepare(`SELECT ${machineColumns} FROM machine WHERE mac = ?`)
    this.#selectRing = database.prepare('SELECT ring FROM credentials WHERE mac = ?')
    this.#putMachine = database.prepare(
      `INSERT OR REPLACE INTO machine (${machineColumns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    )
    this.#putRing = database.prepare('INSERT OR REPLACE INTO credentials (mac, ring) VALUES (?, ?)')
    this.#selectStalestStranger = database.prepare(
      `SELECT mac FROM machine LEFT JOIN credentials USING (mac)
       WHERE decision = 'undecided' AND name IS NULL AND assignment IS NULL
         AND json_extract(ring, '$.active') IS NULL
         AND NOT EXISTS (SELECT 1 FROM certificate WHERE certificate.mac = machine.mac)
       ORDER BY last_seen_ms LIMIT 1`,
    )
    this.proofs = createProofStore(database)
    this.#dataVersion = database.prepare('PRAGMA data_version')
  }

  machine(mac: string): Machine | undefined {
    const row = this.#selectMachine.get(mac)
    return row === undefined ? undefined : machineOf(row)
  }

  machines(): readonly Machine[] {
    return this.#database.prepare(`SELECT ${machineColumns} FROM machine ORDER BY mac`).all().map(machineOf)
  }

  changeMachine(mac: string, change: (known: Machine | undefined) => Machine): Machine {
    return atomically(this.#database, () => {
      const machine = change(this.machine(mac))
      assert(machine.mac === mac, 'a change does not make one machine into another')
      const { name, uuid, serial, decision, rivalUuid, assignment, transport, loaderHasHttps } = machine
      this.#putMachine.run(
        mac,
        name ?? null,
        uuid ?? null,
        serial ?? null,
        decision,
        rivalUuid ?? null,
        assignment === undefined ? null : JSON.stringify(assignment),
        transport ?? null,
        loaderHasHttps === undefined ? null : Number(loaderHasHttps),
        Math.round(machine.firstSeenMs),
        Math.round(machine.lastSeenMs),
      )
      return machine
    })
  }

  removeMachine(mac: string): void {
    atomically(this.#database, () => {
      this.#database.prepare('DELETE FROM machine WHERE mac = ?').run(mac)
      this.#database.prepare('DELETE FROM credentials WHERE mac = ?').run(mac)
      this.#database.prepare('DELETE FROM certificate WHERE mac = ?').run(mac)
      this.#database.prepare('DELETE FROM storage_address WHERE mac = ?').run(mac)
    })
  }

  undecidedCount(): number {
    const row = this.#database.prepare("SELECT count(*) AS n FROM machine WHERE decision = 'undecided'").get()
    return Number(row?.['n'])
  }

  removeStalestStranger(): boolean {
    const row = this.#selectStalestStranger.get()
    if (row === undefined) return false
    this.removeMachine(String(row['mac']))
    return true
  }

  credentials(mac: string): CredentialRing {
    const row = this.#selectRing.get(mac)
    return row === undefined ? { active: undefined, offered: [] } : ringOf(String(row['ring']))
  }

  changeCredentials(mac: string, change: (ring: CredentialRing) => CredentialRing): void {
    atomically(this.#database, () => {
      const before = this.credentials(mac)
      const after = change(before)
      if (after !== before) this.#putRing.run(mac, textOf(after))
    })
  }

  /** SQLite's own counter: it moves with the commits of other connections, never with ours (pragma.html#pragma_data_version). */
  foreignChanges(): number {
    return Number(this.#dataVersion.get()?.['data_version'])
  }

  changeStorageAddress(
    mac: string,
    choose: (known: number | undefined, taken: ReadonlySet<number>) => number | undefined,
  ): number | undefined {
    return atomically(this.#database, () => {
      const rows = this.#database.prepare('SELECT mac, address FROM storage_address').all()
      const known = rows.find((row) => row['mac'] === mac)?.['address']
      const taken = new Set(rows.map((row) => Number(row['address'])))
      const before = known === undefined ? undefined : Number(known)
      const chosen = choose(before, taken)
      if (chosen !== undefined && chosen !== before) {
        this.#database.prepare('INSERT OR REPLACE INTO storage_address (mac, address) VALUES (?, ?)').run(mac, chosen)
      }
      return chosen
    })
  }

  close(): void {
    this.#database.close()
  }
}

type Row = Readonly<Record<string, unknown>>

function machineOf(row: Row): Machine {
  const assignment = text(row['assignment'])
  return {
    mac: String(row['mac']),
    name: text(row['name']),
    uuid: text(row['uuid']),
    serial: text(row['serial']),
    decision: String(row['decision']) as Decision,
    rivalUuid: text(row['rival_uuid']),
    assignment: assignment === undefined ? undefined : (JSON.parse(assignment) as Assignment),
    transport: text(row['transport']) as TransportPolicy | undefined,
    loaderHasHttps: row['loader_has_https'] === null ? undefined : row['loader_has_https'] === 1,
    firstSeenMs: Number(row['first_seen_ms']),
    lastSeenMs: Number(row['last_seen_ms']),
  }
}

function text(value: unknown): string | undefined {
  return value === null || value === undefined ? undefined : String(value)
}

/** A ring as JSON, the only place where its secrets are written. */
function textOf(ring: CredentialRing): string {
  const revealed = (boot: BootCredentials) => ({
    ...boot,
    initiator: { user: boot.initiator.user, secret: boot.initiator.secret.reveal() },
    target: { user: boot.target.user, secret: boot.target.secret.reveal() },
  })
  const active = ring.active === undefined ? undefined : revealed(ring.active)
  return JSON.stringify({ active, offered: ring.offered.map(revealed) })
}

/** What was written before there were proofs has none. */
type Revealed = Omit<BootCredentials, 'initiator' | 'target' | 'proof'> &
  Record<'initiator' | 'target', { user: string; secret: string }> & { proof?: Proof }

function ringOf(stored: string): CredentialRing {
  const ring = JSON.parse(stored) as { active?: Revealed; offered: Revealed[] }
  const hidden = (boot: Revealed): BootCredentials => ({
    ...boot,
    proof: boot.proof ?? { kind: 'admission' },
    initiator: { user: boot.initiator.user, secret: new Secret(boot.initiator.secret) },
    target: { user: boot.target.user, secret: new Secret(boot.target.secret) },
  })
  return { active: ring.active === undefined ? undefined : hidden(ring.active), offered: ring.offered.map(hidden) }
}
