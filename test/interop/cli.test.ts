/** Goal: the command says what failed, why and what to do next, and tells the shell. Method: run it as a person would. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, onTestFinished, test } from 'vitest'
import { systemHash } from '../../src/host/hash.ts'
import { systemRandom } from '../../src/host/random.ts'
import { systemTcp } from '../../src/host/tcp.ts'
import { connectInitiator } from '../../src/iscsi/initiator.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const folder = mkdtempSync(join(tmpdir(), 'slipway-cli-'))
afterAll(() => rmSync(folder, { recursive: true }))
const image = join(folder, 'disk.img')
writeFileSync(image, Buffer.alloc(1024 * 1024, 1))
const state = join(folder, 'state')

function run(...words: string[]): { readonly code: number | null; readonly said: string; readonly complained: string } {
  const done = spawnSync(slipway, words, { encoding: 'utf8', timeout: 20_000 })
  return { code: done.status, said: done.stdout, complained: done.stderr }
}

function fileOf(name: string, text: string, mode = 0o600): string {
  const path = join(folder, name)
  writeFileSync(path, text, { mode })
  return path
}

test.each([
  '',
  'up',
  'target',
  'admit',
  'release',
  'refuse',
  'forget',
  'machines',
  'doctor',
])('slipway %s --help exits 0', (name) => {
  const { code, said } = run(...(name === '' ? [] : [name]), '--help')
  expect(code).toBe(0)
  expect(said).toContain(`Usage: slipway ${name}`.trim())
})

test.each([
  ['no such command', ['launch'], 2, /unknown command/],
  ['no image', ['up'], 2, /no disk image was named\n {2}Say which/],
  ['an image that is not there', ['target', '/nonexistent.img'], 1, /is not there\n {2}Check the path/],
  ['a port that is none', ['up', image, '--tftp-port', '70000'], 2, /from 1 to 65535/],
  ['an interface that is not there', ['up', image, '--interface', 'nope0'], 1, /no interface nope0[^\n]*\n {2}\S/],
  ['a DHCP mode that is none', ['up', image, '--dhcp', 'maybe'], 2, /--dhcp maybe is not understood\n {2}Use proxy/],
  [
    'a MAC address that is none',
    ['admit', 'mine', '--state', state],
    2,
    /mine is not a MAC address, and no machine has that name\n {2}Write it like/,
  ],
  ['half a credential', ['target', image, '--chap', 'user'], 2, /--chap-secret-file FILE is missing\n {2}Give both/],
  ['mutual alone', ['target', image, '--mutual', 'u', '--mutual-secret-file', 'f'], 2, /--mutual needs --chap/],
  ['two ways to write', ['target', image, '--read-only', '--in-place'], 2, /cannot be used with/],
  ['a name that is none', ['target', image, '--name', 'disk'], 2, /disk is not an iSCSI name\n {2}Use one like iqn/],
] as const)('%s', (_, words, code, complaint) => {
  const result = run(...words)
  expect(result.complained).toMatch(complaint)
  expect(result.code).toBe(code)
  expect(result.complained).not.toMatch(/\n {4}at /)
})

test('bad configuration is refused with the file, the line and the key', () => {
  const config = fileOf('bad.toml', 'image = "x.img"\n\n[dhcp]\nmode = "everything"\n')
  const { code, complained } = run('up', '--config', config)
  expect(code).toBe(2)
  expect(complained).toContain(`${config}:4: dhcp.mode`)
})

test('a secret that others can read, and one that is too short, are refused', () => {
  const open = fileOf('open', 'a secret that is long enough\n', 0o644)
  expect(run('target', image, '--chap', 'u', '--chap-secret-file', open).complained).toContain(`chmod 600 ${open}`)
  const short = fileOf('short', 'too short\n')
  expect(run('target', image, '--chap', 'u', '--chap-secret-file', short).complained).toContain('shorter than 12')
  const long = fileOf('long', 'a secret that is long enough\n')
  const both = ['--chap', 'u', '--chap-secret-file', long, '--mutual', 'v', '--mutual-secret-file', long]
  expect(run('target', image, ...both).complained).toContain('are the same')
})

test('machines are admitted, refused, listed and forgotten without a server', () => {
  expect(run('admit', '52-54-00-AA-BB-CC', '--state', state)).toMatchObject({
    code: 0,
    said: '52:54:00:aa:bb:cc is admitted.\n',
  })
  expect(run('machines', '--state', state).said).toMatch(/52:54:00:aa:bb:cc +- +admitted/)
  // A changed board: which one is meant is said by its UUID.
  const uuid = '33221100-5544-7766-8899-aabbccddeeff'
  expect(run('admit', '52:54:00:aa:bb:cc', '--uuid', 'zero', '--state', state).complained).toContain(
    'zero is not a UUID',
  )
  expect(run('admit', '52:54:00:aa:bb:cc', '--uuid', uuid, '--state', state).said).toContain(
    `admitted, with UUID ${uuid}`,
  )
  expect(run('dismiss', '52:54:00:aa:bb:cc', '--state', state).code).toBe(0)
  expect(run('dismiss', '52:54:00:aa:bb:dd', '--state', state).complained).toContain('is known')
  run('refuse', '52:54:00:aa:bb:cc', '--state', state)
  const [line] = run('machines', '--json', '--state', state).said.split('\n')
  expect(JSON.parse(line ?? '')).toMatchObject({ mac: '52:54:00:aa:bb:cc', decision: 'refused' })
  run('forget', '52:54:00:aa:bb:cc', '--state', state)
  expect(run('machines', '--json', '--state', state).said).toBe('')
})

test('target is ready within a second and small, exits 0 on Ctrl-C, and says that a port is taken', async () => {
  const startedMs = performance.now()
  const child = spawn(slipway, ['target', image, '--listen', '127.0.0.1:13260', '--json-events'])
  onTestFinished(() => {
    child.kill('SIGKILL')
  })
  const [first] = await new Promise<string[]>((resolve) =>
    child.stdout.once('data', (text) => resolve(String(text).split('\n'))),
  )
  expect(JSON.parse(first ?? '')).toMatchObject({ kind: 'ready', endpoint: { address: '127.0.0.1', port: 13_260 } })
  expect(performance.now() - startedMs).toBeLessThan(2_000)
  const second = run('target', image, '--listen', '127.0.0.1:13260')
  expect(second.complained).toContain('TCP port 13260 on 127.0.0.1 is taken')
  expect(second.code).toBe(1)
  const exited = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGINT')
  expect(await exited).toBe(0)
})

test('persistent reservations are there after the target was killed and started again', async () => {
  const reservations = join(folder, 'reservations.json')
  const name = 'iqn.2026-01.lab:kept'
  const start = async (): Promise<ChildProcess> => {
    const words = ['target', image, '--name', name, '--listen', '127.0.0.1:13261', '--reservations', reservations]
    const child = spawn(slipway, words)
    onTestFinished(() => {
      child.kill('SIGKILL')
    })
    await new Promise((resolve) => child.stdout.once('data', resolve))
    return child
  }
  const session = () =>
    connectInitiator({
      network: systemTcp,
      random: systemRandom,
      hash: systemHash,
      to: { address: '127.0.0.1', port: 13_261 },
      initiatorName: 'iqn.2026-01.lab:owner',
      targetName: name,
      isid: '00023d000001',
    })
  /** SPC-4 6.16: REGISTER AND IGNORE EXISTING KEY, with APTPL. */
  const register = Uint8Array.of(0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0)
  const parameters = new Uint8Array(24)
  parameters.set([0, 0, 0, 0, 0xca, 0xfe, 0xba, 0xbe], 8)
  parameters[20] = 1
  const readKeys = { cdb: Uint8Array.of(0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0), readBytes: 64 }

  const first = await start()
  const owner = await session()
  await owner.command({ cdb: new Uint8Array(6) }) // takes the unit attention of a new session
  expect((await owner.command({ cdb: register, write: parameters })).status).toBe(0)
  first.kill('SIGKILL')
  await new Promise((resolve) => first.once('exit', resolve))

  const second = await start()
  const again = await session()
  await again.command({ cdb: new Uint8Array(6) })
  const keys = await again.command(readKeys)
  expect(Buffer.from(keys.data.subarray(8, 16)).toString('hex')).toBe('00000000cafebabe')
  again.destroy()
  second.kill('SIGKILL')
})
