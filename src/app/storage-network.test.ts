import { expect, test } from 'vitest'
import { chooseStorageAddress } from '../fleet/storage-addresses.ts'
import { MemoryFleetStore } from '../fleet/store.ts'
import type { NetworkInterface } from '../host/interfaces.ts'
import type { TcpConnection, TcpHandler } from '../ports/tcp.ts'
import { parseRange, type StorageTerms } from './config.ts'
import { onlyAt, storageNetworkOf } from './storage-network.ts'

const boot = { name: 'eth0', address: '10.1.2.1', netmask: '255.255.255.0' }
const tagged: NetworkInterface = {
  name: 'eth0.2',
  address: '10.77.2.1',
  netmask: '255.255.255.0',
  mac: '52:54:00:00:00:01',
  up: true,
  vlan: 2,
}
const range = (text: string): StorageTerms['range'] => {
  const parsed = parseRange(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}
const terms: StorageTerms = { vlan: 2, interfaceName: undefined, range: range('10.77.2.100-10.77.2.199') }

test('the interface is found by name, or by the name that Linux gives it', () => {
  expect(storageNetworkOf(terms, boot, [tagged])).toMatchObject({ interfaceName: 'eth0.2', address: '10.77.2.1' })
  const named = { ...terms, interfaceName: 'storage' }
  expect(storageNetworkOf(named, boot, [tagged, { ...tagged, name: 'storage' }]).interfaceName).toBe('storage')
})

test.each([
  ['is not there', terms, [], /no interface eth0\.2 .* VLAN 2/, /ip link add link eth0 name eth0\.2 type vlan id 2/],
  ['is of another VLAN', terms, [{ ...tagged, vlan: 3 }], /is on VLAN 3, not 2/, /vlan = 3/],
  ['is in the network of the boot', terms, [{ ...tagged, address: '10.1.2.9' }], /are one network/, /of its own/],
  [
    'is around the network of the boot',
    terms,
    [{ ...tagged, address: '10.0.0.1', netmask: '255.0.0.0' }],
    /are one network/,
    /of its own/,
  ],
  [
    'has another network than the range',
    { ...terms, range: range('10.77.3.1-10.77.3.9') },
    [tagged],
    /10\.77\.3\.1-10\.77\.3\.9 is not in the network/,
    /network of 10\.77\.2\.1/,
  ],
] as const)('an interface that %s is refused, with what to do', (_, given, interfaces, message, hint) => {
  try {
    storageNetworkOf(given, boot, interfaces)
    expect.unreachable()
  } catch (error) {
    expect(error).toMatchObject({
      name: 'OperationError',
      message: expect.stringMatching(message),
      hint: expect.stringMatching(hint),
    })
  }
})

test('who comes by another address is turned away before a word, though the socket heard it', async () => {
  let accept: ((connection: TcpConnection) => TcpHandler) | undefined
  const destroyed: string[] = []
  const taken: string[] = []
  const comes = (address: string): void => {
    const local = { address, port: 3260 }
    accept?.({ local, destroy: () => void destroyed.push(address) } as TcpConnection)
  }
  const network = onlyAt('10.77.2.1', {
    connect: () => Promise.reject(new Error('not here')),
    listen: async (binding, handler) => {
      accept = handler
      return { local: binding, close: async () => {} }
    },
  })
  await network.listen({ address: '10.77.2.1', port: 3260 }, ({ local }) => {
    taken.push(local.address)
    return { onData: () => {}, onClose: () => {} }
  })
  comes('10.1.2.1')
  comes('10.77.2.1')
  expect({ destroyed, taken }).toEqual({ destroyed: ['10.1.2.1'], taken: ['10.77.2.1'] })
})

test('each machine keeps an address of its own, none has the server’s, and a range that is full says so', () => {
  const store = new MemoryFleetStore()
  const addressOf = (mac: string, { first, last } = { first: 10, last: 12 }): number | undefined =>
    store.changeStorageAddress(mac, (known, taken) =>
      chooseStorageAddress({ range: { first, last }, reserved: 11 }, known, taken),
    )
  expect(['a', 'b', 'a', 'c'].map((mac) => addressOf(mac))).toEqual([10, 12, 10, undefined])
  // A larger range, later: who had one keeps it. Another range: all get new ones.
  expect(['c', 'b'].map((mac) => addressOf(mac, { first: 10, last: 13 }))).toEqual([13, 12])
  expect(['a', 'b'].map((mac) => addressOf(mac, { first: 20, last: 30 }))).toEqual([20, 21])
})
