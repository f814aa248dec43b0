/**
 * Goal: a real machine proves which it is, or who stands before it, and boots; one that cannot is refused, and both sides say
 * why. Method: real iPXE with HTTPS on each machine's own console. The certificate is on a stick that the firmware starts from:
 * any iPXE takes one as the settings `cert` and `privkey`, so that builds need none in them.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { machineSays } from '../../../lab/golden-image.ts'
import type { Machine } from '../../../lab/machine.ts'
import { type LabNetwork, lab } from '../../../lab/namespace.ts'
import { startDnsmasq } from '../../../lab/peers/dnsmasq.ts'
import type { SlipwayServer } from '../../../lab/slipway.ts'
import { makeStick } from '../../../lab/stick.ts'
import { needAuthority, trustPorts } from '../../../src/app/site-authority.ts'
import { issueMachineCertificate } from '../../../src/trust/site.ts'
import { bootWithinMs } from '../rig.ts'
import { builds, pathOf, rigWithBuilds } from './builds.ts'

const mac = '52:54:00:77:00:10'
const scriptOnStick = 'slipway.ipxe'
const dayMs = 86_400_000
/** The iPXE of 2019 signs bit by bit: in QEMU on two busy cores that is most of the boot. */
const provedWithinMs = 240_000

const requires = (proof: 'certificate' | 'login'): string => `[machine."${mac}"]\nrequire = "${proof}"\n`

test('with the certificate on its stick a machine boots; without, expired or revoked it is refused', async () => {
  const folder = await temporaryFolder()
  const prepare = (network: LabNetwork): Promise<void> => dhcpThatNames(network, `file:/${scriptOnStick}`)
  const { network, powerOn, server } = await rigWithBuilds({ dhcp: 'off', config: requires('certificate'), prepare })
  const stick = (name: string, proof: readonly string[]): Promise<string> =>
    makeStick(folder, name, { program: pathOf(builds.uboot), files: { [scriptOnStick]: stickScript(proof) } })
  const insert = async (file: string): Promise<Machine> =>
    await powerOn({ firmware: 'uefi', mac, disk: { file, format: 'raw' } })

  const without = await insert(await stick('without', []))
  await without.waitFor('this machine must prove itself by a certificate', bootWithinMs)
  await without.powerOff()

  const ended = await insert(await stick('expired', await expiredCertificate(server)))
  await ended.waitFor('the certificate in this iPXE is out of date, or not from here', provedWithinMs)
  const unfit = await server.waitFor('certificateRefused', bootWithinMs, ({ reason }) => reason === 'unfit')
  expect(unfit).toMatchObject({ mac, detail: 'CERT_HAS_EXPIRED' })
  await ended.powerOff()
  expect(server.eventsOf('credentialsMinted'), 'nobody has had a secret yet').toEqual([])

  const issued = join(folder, 'issued')
  await server.run(network, ['certificate', 'issue', mac, '--out', issued])
  const certificate = await readFile(join(issued, 'machine.crt'))
  const key = await readFile(join(issued, 'machine.key'))
  const good = await stick('good', settingsOf(certificate, key))
  const machine = await insert(good)
  await machine.waitFor(machineSays.ready, provedWithinMs)
  await machine.powerOff()
  const listed = JSON.parse(await server.run(network, ['certificate', 'list', mac, '--json'])) as {
    fingerprint: string
  }
  const served = server.eventsOf('scriptServed').filter(({ script }) => script === 'boot')
  expect(served).toMatchObject([
    { mac, encrypted: true, proof: { kind: 'certificate', fingerprint: listed.fingerprint } },
  ])

  await server.run(network, ['certificate', 'revoke', mac])
  const lost = await insert(good)
  await lost.waitFor('the certificate in this iPXE was revoked', provedWithinMs)
  const refused = await server.waitFor('certificateRefused', bootWithinMs, ({ reason }) => reason === 'revoked')
  expect(refused).toMatchObject({ mac, fingerprint: listed.fingerprint })
  expect(server.eventsOf('credentialsMinted').length, 'no secret but those of the one good boot').toBe(1)
})

test('a person signs in at the machine: wrong passwords are refused, then slowed; the right one boots', async () => {
  const { network, powerOn, server } = await rigWithBuilds({ config: requires('login') })
  await server.run(network, ['account', 'add', 'ann'], 'right horse\n')
  const machine = await powerOn({ firmware: 'uefi', mac })
  await machine.waitFor('this machine boots when somebody has signed in', bootWithinMs)
  for (let tries = 0; tries < 3; tries++) {
    await signIn(machine, 'ann', 'wrong horse')
    await machine.waitFor('the name or the password is not right', bootWithinMs)
  }
  // What is typed during the pause is not even looked at.
  await signIn(machine, 'ann', 'wrong horse')
  await machine.waitFor(/The next one is in \d+ seconds/, bootWithinMs)
  const { by, failureCount } = await server.waitFor('signInSlowed', bootWithinMs)
  expect({ by, failureCount }).toEqual({ by: 'address', failureCount: 3 })
  expect(server.eventsOf('credentialsMinted')).toEqual([])

  await signIn(machine, 'ann', 'right horse')
  await machine.waitFor(machineSays.ready, bootWithinMs)
  const served = server.eventsOf('scriptServed').filter(({ script }) => script === 'boot')
  expect(served).toMatchObject([{ mac, encrypted: true, proof: { kind: 'login', account: 'ann' } }])
  expect(JSON.stringify(server.events), 'what was typed').not.toMatch(/horse/)
})

/** Keys at the two fields of iPXE's `login`, one after the other: what firmware keeps of a serial line is little. */
async function signIn(machine: Machine, name: string, password: string): Promise<void> {
  // The second of its labels. OVMF puts what makes letters bold between them.
  await machine.waitFor(/P\S*a\S*s\S*s\S*w\S*o\S*r\S*d/, bootWithinMs)
  for (const [text, shown] of [
    [name, undefined],
    [password, '*'],
  ] as const) {
    for (const key of text) {
      machine.type(key)
      await machine.waitFor(shown ?? key, bootWithinMs)
    }
    machine.type('\n')
  }
}

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-proofs-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** Another's DHCP server, which sends an iPXE to the script on its own stick: no key ever travels. */
async function dhcpThatNames(network: LabNetwork, scriptUrl: string): Promise<void> {
  const folder = await temporaryFolder()
  const dnsmasq = await startDnsmasq(network, folder, { kind: 'namesScript', scriptUrl })
  onTestFinished(async () => {
    await dnsmasq.stop()
  })
}

/** What a person writes onto a stick beside an iPXE (docs/loaders.md). */
function stickScript(proof: readonly string[]): string {
  const script = `chain --replace --autofree https://${lab.serverAddress}/boot/\${mac:hexhyp}.ipxe`
  return ['#!ipxe', ...proof, script].map((line) => `${line}\n`).join('')
}

/** Made by the same authority for the same machine, and two days past its end. */
async function expiredCertificate(server: SlipwayServer): Promise<readonly string[]> {
  const authority = await needAuthority(server.stateDirectory, 'there is one')
  const terms = { machine: mac, days: 1, nowMs: Date.now() - 3 * dayMs }
  const { certificate, key } = await issueMachineCertificate(authority, terms, trustPorts)
  return settingsOf(certificate.der, key.exportPem().reveal())
}

/** As iPXE takes them: DER, in base64. */
function settingsOf(certificate: Uint8Array, keyPem: string | Buffer): readonly string[] {
  const key = createPrivateKey(keyPem).export({ format: 'der', type: 'pkcs1' })
  const { raw } = new X509Certificate(certificate)
  return [`set cert:base64 ${raw.toString('base64')}`, `set privkey:base64 ${key.toString('base64')}`]
}
