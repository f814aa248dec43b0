/**
 * Goal: a machine that starts its kernel at once gets it with everything that this boot has to know, or is told why not. Method: the
 * texts as goldens, and the scripts run by the interpreter against a world that fails at will.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Secret } from '../base/secret.ts'
import { Interpreter, type Result } from '../ipxe/interpret.ts'
import { parse } from '../ipxe/parse.ts'
import { print, printRedacted } from '../ipxe/print.ts'
import { linuxUrl, parsePath, reportUrl, scriptUrl, type WebServer } from './addresses.ts'
import { type KernelScriptFacts, kernelScript, type NoKernel, noKernelScript } from './kernel-script.ts'
import { diskPausesSeconds } from './limits.ts'
import { kernelLine } from './linux-settings.ts'

const mac = '52:54:00:77:00:10'
const server: WebServer = { secure: true, host: 'boot.lab', port: 8443 }
const facts: KernelScriptFacts = {
  mac,
  image: 'debian-lab',
  bootId: 'k3x9abcd',
  address: '192.168.77.1',
  files: {
    url: linuxUrl(server, mac),
    key: new Secret('KEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKE'),
    kernel: 'kernel',
    initramfs: ['initramfs-0', 'initramfs-1'],
  },
  words: kernelLine({ commandLine: 'root=UUID=5c1b ro quiet', mac }) ?? [],
  isPc: true,
  reportUrl: reportUrl(server, mac, 'k3x9abcd'),
  refetchUrl: scriptUrl(server, mac, { refetch: 1 }),
}
const reasons: readonly NoKernel[] = ['unopened', 'unreadable', 'noIscsi', 'unsayable']
const refused = (why: NoKernel): string => print(noKernelScript({ mac, image: 'debian-lab', why }))
const source = print(kernelScript(facts))
const golden: ReadonlyArray<readonly [file: string, text: string]> = [
  ['kernel.ipxe', source],
  ['kernel-on-arm.ipxe', print(kernelScript({ ...facts, isPc: false, refetchUrl: undefined }))],
  ['no-kernel.ipxe', refused('unreadable')],
]

test.for(golden)('%s is what it was', async ([file, text]) => {
  await expect(text).toMatchFileSnapshot(`vectors/${file}`)
  expect(print(parse(text))).toBe(text)
})

type World = (command: string, operands: readonly string[]) => Result
const works: Result = { status: 0 }
const fails: Result = { status: 0x2d0c613b }

function run(text: string, world: World, vendor = 'U-Boot') {
  const interpreter = new Interpreter(parse(text), new Map([['smbios/0.4.0', vendor]]))
  const screen: string[] = []
  const ran: string[] = []
  let seconds = 0
  for (;;) {
    const step = interpreter.next()
    if (step.kind === 'ended') return { screen, ran, seconds, how: step.how, status: step.status }
    const { command, operands } = step.effect
    if (command === 'echo') screen.push(operands.join(' '))
    else if (command === 'sleep') seconds += Number(operands[0])
    else ran.push([command, ...operands].join(' ').trim())
    interpreter.complete(world(command, operands))
  }
}

const folder = 'https://k3x9abcd:KEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKE@boot.lab:8443/linux/52-54-00-77-00-10'
const names = 'initrd=slipway-initramfs-0 initrd=slipway-initramfs-1 initrd=slipway-settings'

describe('the script', () => {
  test('loads the kernel, its initramfs, and the settings behind it, then starts', () => {
    expect(run(source, () => works).ran).toEqual([
      'imgfree',
      `kernel ${folder}/kernel ${names} root=UUID=5c1b ro quiet ip=dhcp BOOTIF=01-52-54-00-77-00-10 disable_mtrr_trim efi=noruntime no_timer_check`,
      `initrd ${folder}/initramfs-0`,
      `initrd ${folder}/initramfs-1`,
      `initrd ${folder}/settings`,
      'boot',
    ])
  })
  test.for([
    ['another firmware', source, 'EDK II'],
    ['another processor', print(kernelScript({ ...facts, isPc: false })), 'U-Boot'],
  ] as const)("%s gets no word of U-Boot's on a PC", ([, text, vendor]) => {
    expect(run(text, () => works, vendor).ran.join(' ')).not.toContain('noruntime')
  })
  test.for(['kernel', 'initrd', 'boot'])('where %s fails that is told, and a fresh script is fetched', (failing) => {
    const done = run(source, (command) => {
      if (command === failing) return fails
      return command === 'chain' ? { status: 0, script: '#!ipxe\necho fresh\nexit 1\n' } : works
    })
    expect(done.ran).toContainEqual(expect.stringContaining('step=kernel-failed&error=2d0c613b'))
    expect(done.ran.at(-1)).toContain('&refetch=1')
    expect(done.screen.at(-1)).toBe('fresh')
    // A kernel that is left over would be started by the next script's `boot`.
    expect(done.ran.filter((line) => line === 'imgfree')).toHaveLength(2)
  })
  test('what a person typed, and what a script before left, is cleared', () => {
    for (const name of ['username', 'password', 'reverse-username', 'reverse-password']) {
      expect(source).toContain(`clear ${name} ||`)
    }
  })
  test('a server that is gone is waited for, then the firmware goes on', () => {
    const done = run(source, (command) => (command === 'echo' || command === 'sleep' ? works : fails))
    expect(done.ran.filter((line) => line.startsWith('chain'))).toHaveLength(diskPausesSeconds.length + 1)
    expect(done).toMatchObject({ how: 'exit', status: 1 })
  })
  test('whatever fails it ends in exit, and its pauses are bounded', () => {
    fc.assert(
      fc.property(fc.constantFrom(...golden), fc.infiniteStream(fc.constantFrom(0, 0, 1)), ([, text], statuses) => {
        let count = 0
        const done = run(text, (command) =>
          command === 'echo' || ++count > 400 ? works : { status: statuses.next().value ?? 0 },
        )
        expect(done).toMatchObject({ how: 'exit', status: 1 })
        expect(done.seconds).toBeLessThanOrEqual(20 * 60)
      }),
      { numRuns: 300 },
    )
  })
  test('the key is shown to nobody: not by the script for people, not in its path', () => {
    expect(printRedacted(kernelScript(facts))).not.toContain('KEYKEY')
    expect(run(source, (command) => (command === 'echo' ? works : fails)).screen.join('\n')).not.toContain('KEYKEY')
    expect(parsePath('/linux/52-54-00-77-00-10/settings')).toEqual({ kind: 'linux', mac, file: 'settings' })
    for (const path of ['/linux/52-54-00-77-00-10', '/linux/x/kernel', '/linux/52-54-00-77-00-10/a/b', '/linux/']) {
      expect(parsePath(path), path).toBeUndefined()
    }
  })
})

test.for(reasons)('without a kernel the screen says why and what to do: %s', (why) => {
  const done = run(refused(why), () => works)
  expect(done).toMatchObject({ how: 'exit', status: 1, ran: [] })
  expect(done.screen.join('\n')).toMatch(/debian-lab\n.*\.\nOn the server, type: slipway image check/)
})

test('what is said fits on a screen of 80 columns', () => {
  const said = [...golden.map(([, text]) => text), ...reasons.map(refused)]
    .flatMap((text) => text.split('\n'))
    .filter((line) => line.startsWith('echo '))
  for (const line of said) {
    expect(line.replaceAll(/\$\{[a-z-]+\}/g, '12345678').length, line).toBeLessThanOrEqual('echo '.length + 79)
  }
})

test('no command line of an image becomes a command', () => {
  const any = fc.oneof(
    fc.string({ maxLength: 60 }),
    fc.string({ unit: fc.constantFrom('|', '&', ';', '#', '$', '{', '\\', ' ', 'a') }),
  )
  fc.assert(
    fc.property(any, (commandLine) => {
      const words = kernelLine({ commandLine, mac })
      if (words === undefined) return
      const ran = run(print(kernelScript({ ...facts, words })), () => works).ran.map((line) => line.split(' ')[0])
      expect(ran).toEqual(['imgfree', 'kernel', 'initrd', 'initrd', 'initrd', 'boot'])
    }),
    { numRuns: 1_000 },
  )
})
