/** Goal: nobody boots unasked. Method: machines that nobody knows are switched on; what they may do stands on their screens. */
import { expect, test } from 'vitest'
import { machineSays } from '../../lab/golden-image.ts'
import { bootWithinMs, rig } from './rig.ts'

const uuid = '5c1b0a7e-1234-4abc-8def-536c69707761'
const otherUuid = 'deadbeef-1234-4abc-8def-536c69707761'

test('an unknown machine is held and says so on its screen; admitted, it boots by itself', async () => {
  const { powerOn, server, network } = await rig({ dhcp: 'own', admit: 'ask' })
  const machine = await powerOn({ firmware: 'bios-ipxe-rom', uuid })
  await machine.waitFor('this machine waits for admission', bootWithinMs)
  await machine.waitFor(uuid, bootWithinMs)
  await machine.waitFor(`slipway admit ${machine.mac}`, bootWithinMs)
  expect(server.eventsOf('iscsiLogin')).toEqual([])

  // The command that the screen told.
  await server.run(network, ['admit', machine.mac])
  await machine.waitFor(machineSays.ready, bootWithinMs)
  const loginCount = server.eventsOf('iscsiLogin').length
  expect(loginCount).toBeGreaterThan(0)

  // Another board with the same address: it is held, loudly, until a person has looked.
  await machine.powerOff()
  const impostor = await powerOn({ firmware: 'bios-ipxe-rom', uuid: otherUuid })
  await impostor.waitFor('this machine waits for admission', bootWithinMs)
  await impostor.waitFor('Another board was admitted with this MAC address', bootWithinMs)
  await impostor.waitFor(`with --uuid ${otherUuid}`, bootWithinMs)
  expect(server.eventsOf('identityAlarm')).toMatchObject([{ knownUuid: uuid, seenUuid: otherUuid }])
  expect(server.eventsOf('iscsiLogin')).toHaveLength(loginCount)
  expect(await server.run(network, ['machines'])).toContain(`another board came: ${otherUuid}`)
})
