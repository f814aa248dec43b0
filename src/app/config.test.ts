import { describe, expect, test } from 'vitest'
import { decideUp, parseConfig, policyOfImage, startOf } from './config.ts'

const whole = `
image = "golden.img"
state = "/var/lib/slipway"
interface = "eth0"
admit = "all"

transport = "strict"

[dhcp]
range = "192.168.77.100-192.168.77.199"
router = "192.168.77.1"
dns = ["192.168.77.1"]
lease-seconds = 600

[iscsi]
chap = "one-way"

[ports]
http = 8080

[machine."52-54-00-12-34-56"]
name = "bench-3"
require = "login"
`

test('a whole file is understood, and the command line wins over it', () => {
  const config = decideUp(
    parseConfig(whole, 'slipway.toml'),
    { admit: 'none', ports: { http: undefined, tftp: 6969 } },
    '/s',
  )
  expect(config).toMatchObject({
    imagePath: 'golden.img',
    stateDirectory: '/var/lib/slipway',
    interfaceName: 'eth0',
    admit: 'none',
    transport: 'strict',
    dhcp: { mode: 'server', range: { first: 0xc0a84d64, last: 0xc0a84dc7 }, leaseSeconds: 600 },
    chap: 'one-way',
    ports: { http: 8080, tftp: 6969, iscsi: 3260 },
    machines: [{ mac: '52:54:00:12:34:56', name: 'bench-3', admit: undefined, require: 'login' }],
  })
})

test('with nothing but an image, Slipway asks before it admits, is mutual, and hands out no address', () => {
  const config = decideUp(parseConfig('', 'x'), { image: 'a.img' }, '/s')
  expect(config).toMatchObject({
    admit: 'ask',
    transport: 'auto',
    chap: 'mutual',
    dhcp: { mode: 'proxy' },
    stateDirectory: '/s',
  })
})

test('the policy of an image: the configuration holds over what was said of it, and both over that of all images', () => {
  const text = '[clones]\npolicy = "ephemeral"\n[images."lab"]\npolicy = "read-only"\n[images."office"]\n'
  const config = decideUp(parseConfig(text, 'x'), { image: 'lab' }, '/s')
  expect(policyOfImage(config, 'lab', 'persistent')).toBe('readOnly')
  expect(policyOfImage(config, 'office', 'persistent')).toBe('persistent')
  expect(policyOfImage(config, 'office', undefined)).toBe('ephemeral')
})

test('how a machine is started: by what is said of it, then of its image, else by its disk', () => {
  const text = `[images."lab"]
start = "kernel"
[machine."52:54:00:00:00:01"]
start = "disk"
[machine."52:54:00:00:00:02"]
start = "kernel"
[machine."52:54:00:00:00:03"]
`
  const start = startOf(decideUp(parseConfig(text, 'x'), { image: 'lab' }, '/s'))
  const of = (machine: number, image: string): string => start(`52:54:00:00:00:0${machine}`, image)
  expect([of(1, 'lab'), of(1, 'office')]).toEqual(['disk', 'disk'])
  expect([of(2, 'lab'), of(2, 'office')]).toEqual(['kernel', 'kernel'])
  expect([of(3, 'lab'), of(3, 'office')]).toEqual(['kernel', 'disk'])
  expect([of(4, 'lab'), of(4, 'office')]).toEqual(['kernel', 'disk'])
})

test('a kernel that is started at once does not join the VLAN of its disk, and that is said at once', () => {
  const storage = '[network.storage]\nvlan = 2\nrange = "10.77.2.100-10.77.2.199"\n'
  for (const table of ['images."lab"', 'machine."52:54:00:00:00:01"']) {
    const file = parseConfig(`${storage}[${table}]\nstart = "kernel"\n`, 'x')
    expect(() => decideUp(file, { image: 'lab' }, '/s')).toThrow(`${table}: start = "kernel" and [network.storage]`)
  }
})

describe('bad configuration is refused with the line and the key', () => {
  test.each([
    ['image = ', 'c.toml:1:'],
    ['image = "a"\nimage = "b"', 'c.toml:2:'],
    ['\n\nadmit = "everyone"', 'c.toml:3: admit:'],
    ['[dhcp]\nmode = "proxy"\nrange = "1.2.3.4"', 'c.toml:3: dhcp.range: is not a range'],
    ['[ports]\nhttp = 80\ntftp = 70000', 'c.toml:3: ports.tftp:'],
    ['[dhcp]\n\nleases = 3', 'c.toml:3: there is no setting dhcp.leases'],
    ['[machine."not a mac"]\nname = "x"', 'c.toml:1: machine.not a mac'],
    [
      '[machine."52:54:00:00:00:01"]\nrequire = "login"\n[machine."52-54-00-00-00-01"]',
      'c.toml:3: machine."52:54:00:00:00:01" and machine."52-54-00-00-00-01" are one machine',
    ],
    ['server-name = "boot..lab"', 'c.toml:1: server-name: is not a host name'],
    [`server-name = "${'a'.repeat(64)}.lab"`, 'c.toml:1: server-name: is not a host name'],
    ['imgae = "x"', 'c.toml:1: there is no setting imgae'],
    ['[machine."52:54:00:00:00:01"]\nname = "a b"', 'c.toml:2: machine.52:54:00:00:00:01.name: is not a host name'],
  ])('%j', (text, expected) => {
    try {
      parseConfig(text, 'c.toml')
      expect.unreachable('it must be refused')
    } catch (error) {
      expect(error).toMatchObject({
        name: 'OperationError',
        code: 'configInvalid',
        hint: expect.stringMatching(/.{5}/),
      })
      expect((error as Error).message).toContain(expected)
    }
  })

  test('a certificate of one’s own has a key, and a key has a certificate', () => {
    const https = (text: string) => decideUp(parseConfig(`[https]\n${text}`, 'x'), { image: 'a' }, '/s')
    expect(() => https('certificate = "a.pem"')).toThrow('https.certificate is set but https.key is not')
    expect(() => https('key = "a.key"')).toThrow('https.key is set but https.certificate is not')
    expect(https('certificate = "a.pem"\nkey = "a.key"\nuefi = true')).toMatchObject({
      ownCertificate: { certificatePath: 'a.pem', keyPath: 'a.key' },
      uefiHttps: true,
    })
  })

  test('a proof that cannot travel, and one that is none', () => {
    const contradiction = parseConfig('transport = "open"\n[machine."52:54:00:00:00:01"]\nrequire = "login"', 'x')
    expect(() => decideUp(contradiction, { image: 'a' }, '/s')).toThrow(
      'machine."52:54:00:00:00:01": require = "login" and transport = "open" contradict each other',
    )
    expect(() => decideUp(parseConfig('transport = "open"', 'x'), { image: 'a' }, '/s')).not.toThrow()
    const unproven = parseConfig('[iscsi]\nchap = "none"\n[machine."52:54:00:00:00:01"]\nrequire = "certificate"', 'x')
    expect(() => decideUp(unproven, { image: 'a' }, '/s')).toThrow(
      'machine."52:54:00:00:00:01": require = "certificate" and [iscsi] chap = "none" contradict each other',
    )
    expect(() => parseConfig('require = "fingerprint"', 'x')).toThrow('x:1: require:')
  })

  test('a server without a range, and a flag that is neither', () => {
    const server = parseConfig('[dhcp]\nmode = "server"', 'x')
    expect(() => decideUp(server, { image: 'a' }, '/s')).toThrow('dhcp.range')
    expect(() => decideUp({}, { image: 'a', dhcp: 'yes' }, '/s')).toThrow('--dhcp yes')
    expect(() => decideUp({}, {}, '/s')).toThrow('no disk image')
  })
})
