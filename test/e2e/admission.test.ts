/** Goal: nobody boots unasked. Method: a machine that nobody knows is switched on; what it may do stands on its screen. */
import { expect, test } from 'vitest'
import { machineSays } from '../../lab/golden-image.ts'
import { bootWithinMs, rig } from './rig.ts'

const uuid = '5c1b0a7e-1234-4abc-8def-536c69707761'

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
  expect(server.eventsOf('iscsiLogin').length).toBeGreaterThan(0)
})
