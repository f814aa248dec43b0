/** Goal: an iPXE that checks certificates takes no script from who cannot show the right one. Method: real builds, real clocks. */
import { expect, test } from 'vitest'
import { lab } from '../../../lab/namespace.ts'
import type { BootEvent } from '../../../src/journal/events.ts'
import { bootWithinMs } from '../rig.ts'
import { importAuthority, rigWithBuilds } from './builds.ts'

test("another authority's certificate is refused by the machine, and the server says why", async () => {
  // Nothing imported: this site has made an authority of its own.
  const { powerOn, server } = await rigWithBuilds({ before: [] })
  const machine = await powerOn({ firmware: 'bios-pxe' })
  await machine.waitFor('Permission denied (http', bootWithinMs)
  const { reason } = await server.waitFor('tlsFailed', bootWithinMs)
  expect(reason).not.toBe('')
  expect(server.eventsOf('scriptServed')).toEqual([])
})

test('an expired certificate, and one that is not good yet, are refused by the machine, and the server says why', async () => {
  const { powerOn, server } = await rigWithBuilds({ before: [importAuthority] })
  for (const clock of ['2099-01-01T00:00:00', '1970-01-02T00:00:00']) {
    const failedBefore = server.eventsOf('tlsFailed').length
    const machine = await powerOn({ firmware: 'bios-pxe', clock })
    await machine.waitFor(/\(http.*ipxe.org/, bootWithinMs)
    await server.waitFor('tlsFailed', bootWithinMs, () => server.eventsOf('tlsFailed').length > failedBefore)
    await machine.powerOff()
  }
  expect(server.eventsOf('scriptServed')).toEqual([])
})

test("the script of a machine whose iPXE has HTTPS is nobody's by HTTP, and a restart of Slipway does not change that", async () => {
  const { network, powerOn, server } = await rigWithBuilds({})
  const machine = await powerOn({ firmware: 'uefi' })
  await server.waitFor('scriptServed', bootWithinMs)
  await machine.powerOff()
  const url = `http://${lab.serverAddress}/boot/${machine.mac.replaceAll(':', '-')}.ipxe`
  const ask = (): Promise<string> => network.run(['curl', '-sf', url], 'curl')
  expect(await ask()).toContain('gets its script by HTTPS only')
  const mintedBefore = server.eventsOf('credentialsMinted').length
  const readyBefore = server.events.length
  await server.crash()
  await server.startAgain()
  const isNew = (event: BootEvent): boolean => server.events.indexOf(event) >= readyBefore
  await server.waitFor('serviceReady', bootWithinMs, (event) => event.service === 'https' && isNew(event))
  expect(await ask()).toContain('gets its script by HTTPS only')
  expect(server.eventsOf('credentialsMinted').length).toBe(mintedBefore)
})
