import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type Effect, Interpreter, type Result } from '../../ipxe/interpret.ts'
import { parse } from '../../ipxe/parse.ts'
import { loadersKit } from './kit.ts'

const kit = loadersKit({ authorityPem: 'PEM', authoritySubject: 'CN=x', fingerprint: 'sha256:00' })
const contentOf = (path: string): string => kit.find((file) => file.path === path)?.content ?? ''

test('the kit has what README.iscsi tells its reader to have', () => {
  expect(contentOf('config/nap.h')).toMatch(/#undef NAP_EFIX86\n#undef NAP_EFIARM\n#define NAP_NULL/)
  for (const define of ['DOWNLOAD_PROTO_HTTPS', 'VLAN_CMD', 'NTP_CMD']) {
    expect(contentOf('config/general.h')).toMatch(new RegExp(`^#define ${define}\\b`, 'm'))
  }
  expect(contentOf('ca.crt')).toBe('PEM')
})

/** Runs the script, answering each effect by its command; what it did, in order, and how it ended. */
function run(answer: (effect: Effect) => Result): { readonly did: string[]; readonly status: number } {
  const interpreter = new Interpreter(parse(contentOf('embed.ipxe')), new Map())
  const did: string[] = []
  for (;;) {
    const step = interpreter.next()
    if (step.kind === 'ended') return { did, status: step.status }
    did.push([step.effect.command, ...step.effect.operands].join(' '))
    interpreter.complete(answer(step.effect))
  }
}

test('the script to embed asks DHCP and loads what it names', () => {
  const url = 'https://192.168.77.1/boot'
  const { did, status } = run(({ command }) => {
    return command === 'dhcp' ? { status: 0, settings: new Map([['filename', url]]) } : { status: 0 }
  })
  expect(did).toEqual(['dhcp', `chain ${url}`])
  expect(status).toBe(0)
})

test('without DHCP, without a file name, or refused, it says so, tries five times and gives the firmware its turn', () => {
  const failing: readonly ((effect: Effect) => Result)[] = [
    ({ command }) => ({ status: command === 'dhcp' ? 0x4c126035 : 0 }),
    () => ({ status: 0 }),
    ({ command }) => {
      if (command === 'dhcp') return { status: 0, settings: new Map([['filename', 'https://x/']]) }
      return { status: command === 'chain' ? 0x0216eb8f : 0 }
    },
  ]
  for (const answer of failing) {
    const { did, status } = run(answer)
    expect(did.filter((command) => command === 'dhcp').length).toBe(5)
    expect(did.filter((command) => command.startsWith('sleep')).length).toBe(4)
    expect(did.at(-1)).toMatch(/giving up/)
    expect(status).not.toBe(0)
  }
})

test('the build script is one that sh reads, and says how it is used', () => {
  const folder = mkdtempSync(join(tmpdir(), 'slipway-kit-'))
  try {
    const path = join(folder, 'build')
    writeFileSync(path, contentOf('build'), { mode: 0o755 })
    execFileSync('sh', ['-n', path])
    expect(() => execFileSync(path, [], { stdio: 'pipe' })).toThrow(/usage:/)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test("with a machine's certificate it builds for that machine alone, and says that nobody else may have it", () => {
  const folder = mkdtempSync(join(tmpdir(), 'slipway-kit-'))
  try {
    for (const made of ['kit/config', 'machine', 'ipxe/src/bin-x86_64-efi', 'tools']) {
      mkdirSync(join(folder, made), { recursive: true })
    }
    for (const { path, content } of kit) writeFileSync(join(folder, 'kit', path), content, { mode: 0o755 })
    for (const file of ['ipxe/src/Makefile', 'machine/machine.key', 'machine/machine.crt']) {
      writeFileSync(join(folder, file), '')
    }
    // Stands for make: says what it was told, and makes it.
    const make = '#!/bin/sh\nprintf "%s\\n" "$@" > "$2/told"\n: > "$2/$4"\n'
    writeFileSync(join(folder, 'tools/make'), make, { mode: 0o755 })
    const env = {
      ...process.env,
      PATH: `${join(folder, 'tools')}:${process.env['PATH']}`,
      MACHINE: join(folder, 'machine'),
    }
    const words = [join(folder, 'ipxe'), 'bin-x86_64-efi/snp.efi']
    const said = execFileSync(join(folder, 'kit/build'), words, { env, encoding: 'utf8' })
    const told = readFileSync(join(folder, 'ipxe/src/told'), 'utf8')
    expect(told).not.toMatch(/^(CROSS|HOST_CFLAGS)=/m)
    expect(told).toContain(`CERT=${folder}/machine/machine.crt,${folder}/kit/ca.crt\n`)
    expect(told).toContain(`PRIVKEY=${folder}/machine/machine.key\n`)
    expect(told).toContain(`TRUST=${folder}/kit/ca.crt\n`)
    expect(told).toContain('NO_WERROR=1\n')
    expect(readdirSync(join(folder, 'machine'))).toContain('bin-x86_64-efi-snp.efi')
    // For another processor, on this one: its own compiler is told nothing of that.
    const forArm64 = { ...env, CROSS: 'aarch64-linux-gnu-' }
    execFileSync(join(folder, 'kit/build'), words, { env: forArm64, encoding: 'utf8' })
    const toldThen = readFileSync(join(folder, 'ipxe/src/told'), 'utf8')
    expect(toldThen).toMatch(/^CROSS=aarch64-linux-gnu-\nHOST_CFLAGS=-O2 -g\n/m)
    expect(said).toMatch(/hold the key of one machine[^\n]*\n[^\n]*can be read by whoever asks/)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
