/**
 * Goal: whoever does not trust us gets nothing from us, and whoever comes with the wrong secret gets no disk; each is an
 * event that says so. Method: `slipway up` in a network of its own; curl with the cipher lists of the loaders (docs/quirks.md),
 * libiscsi with the credentials of a script.
 */
import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { LabNetwork, lab } from '../../lab/namespace.ts'
import { SlipwayServer } from '../../lab/slipway.ts'
import { fetchScript, scriptLogin } from './script-login.ts'

const mac = '52:54:00:77:00:21'
const withinMs = 15_000

type Site = { readonly network: LabNetwork; readonly server: SlipwayServer; readonly folder: string }

async function site(): Promise<Site> {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-trust-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  const imagePath = join(folder, 'disk.img')
  await writeFile(imagePath, Buffer.alloc(1024 * 1024, 1))
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const server = await SlipwayServer.start({ network, imagePath, dhcp: 'own', admit: 'all', chap: 'mutual' })
  onTestFinished(async () => void (await server.stop()))
  return { network, server, folder }
}

const scriptPath = `/boot/${mac}.ipxe`

test('the secrets of a boot open its disk until the next boot has logged in, and then nothing', async () => {
  const here = await site()
  const { server } = here
  const url = `http://${lab.serverAddress}${scriptPath}`
  const first = await fetchScript(here, url)
  expect(await scriptLogin(here.network, first)).toContain('Peripheral')
  expect(await server.waitFor('iscsiLogin', withinMs)).toMatchObject({ mac, authentication: 'mutual' })

  // Asking for another script takes nothing away; logging in with it does.
  const second = await fetchScript(here, url)
  expect(second.get('password')).not.toBe(first.get('password'))
  await scriptLogin(here.network, first)
  expect(server.eventsOf('credentialsEnded')).toEqual([])
  await scriptLogin(here.network, second)
  expect(await server.waitFor('credentialsEnded', withinMs)).toMatchObject({ mac, reason: 'nextBoot' })

  await expect(scriptLogin(here.network, first), 'the script of the boot before').rejects.toThrow()
  const replayed = await server.waitFor('iscsiLoginFailed', withinMs)
  await expect(
    scriptLogin(here.network, new Map([...second, ['password', 'A'.repeat(16)]])),
    'a guess',
  ).rejects.toThrow()
  const guessed = await server.waitFor('iscsiLoginFailed', withinMs, ({ id }) => id > replayed.id)
  for (const refused of [replayed, guessed]) expect(refused).toMatchObject({ mac, reason: 'wrongCredentials' })

  // libiscsi, like iPXE, goes on with no target that cannot prove itself.
  const loginCount = server.eventsOf('iscsiLogin').length
  await expect(scriptLogin(here.network, new Map([...second, ['reverse-password', 'B'.repeat(16)]]))).rejects.toThrow()
  expect(server.eventsOf('iscsiLogin')).toHaveLength(loginCount)

  const said = JSON.stringify(server.events)
  for (const script of [first, second]) {
    for (const name of ['password', 'reverse-password']) expect(said).not.toContain(script.get(name))
  }
})

test.each([
  ['iPXE of 2019', 'AES128-SHA256', 'ipxe-2019'],
  ['OVMF of 2022', 'DHE-RSA-AES128-GCM-SHA256', 'ovmf'],
  ['iPXE of 2026', 'ECDHE-ECDSA-AES128-GCM-SHA256', undefined],
] as const)('with the ciphers of %s a script comes by HTTPS to who trusts us, and to nobody else', async (_, cipher, compat) => {
  const here = await site()
  const { network, server, folder } = here
  await server.waitFor('serviceReady', withinMs, ({ service }) => service === 'https')
  const ours = join(folder, 'ours.crt')
  await server.run(network, ['ca', 'export', ours])
  const url = `https://${lab.serverAddress}${scriptPath}`
  const as = (ca: string): string[] => ['--cacert', ca, '--tls-max', '1.2', '--ciphers', cipher]
  const script = await fetchScript(here, url, as(ours))
  expect(script.get('password')).toHaveLength(16)
  const agreed = await server.waitFor('tlsAgreed', withinMs)
  expect(agreed).toMatchObject({ protocol: 'TLSv1.2', cipher })
  expect(agreed.compat).toBe(compat)
  expect(await server.waitFor('scriptServed', withinMs)).toMatchObject({ encrypted: true })

  const theirs = join(folder, 'theirs.crt')
  const made = [
    'req',
    '-x509',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-subj',
    '/CN=theirs',
    '-keyout',
    '/dev/null',
    '-out',
    theirs,
  ]
  expect(spawnSync('openssl', made).status).toBe(0)
  await expect(fetchScript(here, url, as(theirs))).rejects.toThrow(/certificate/)
  expect(await server.waitFor('tlsFailed', withinMs)).toMatchObject({ reason: 'the loader does not trust our CA' })
  expect(server.eventsOf('scriptServed')).toHaveLength(1)

  // Logged in to what it got: the audit says with what it was protected.
  await scriptLogin(here.network, await fetchScript(here, url, as(ours)))
  // The journal is written a moment later.
  const audit = (): Promise<string> => server.run(network, ['audit', mac])
  await expect.poll(audit, { timeout: withinMs }).toMatch(/^Disk by iSCSI/m)
  expect(await audit()).toContain(`TLS 1.2, ${cipher}`)
  expect(await audit()).toMatch(/: grade C\./)
})

test('SIGHUP takes a new authority up at once, and stops nothing', async () => {
  const here = await site()
  const { network, server, folder } = here
  await server.waitFor('serviceReady', withinMs, ({ service }) => service === 'https')
  await server.run(network, ['ca', 'rotate'])
  const ours = join(folder, 'ours.crt')
  await server.run(network, ['ca', 'export', ours])
  const url = `https://${lab.serverAddress}${scriptPath}`
  await expect(fetchScript(here, url, ['--cacert', ours])).rejects.toThrow(/certificate/)
  process.kill(server.processId, 'SIGHUP')
  const fetched = (): Promise<unknown> => fetchScript(here, url, ['--cacert', ours]).catch(() => undefined)
  await expect.poll(fetched, { timeout: withinMs }).toBeDefined()
  await scriptLogin(here.network, await fetchScript(here, url, ['--cacert', ours]))
})
