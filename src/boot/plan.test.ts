/** One row for each firmware that was seen (docs/quirks.md), and what it gets. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { chooseScript, type Proof, type ScriptFacts } from './choose-script.ts'
import { type Architecture, type Client, describeClient, type Program } from './client.ts'
import { inOrder, knownLoader, type Loader, loaderFrom, loadersAmong, type SeenLoader } from './loaders.ts'
import { type BootFacts, type Plan, planBoot } from './plan.ts'

const mac = '52:54:00:77:00:10'
const uuid = '00112233-4455-6677-8899-aabbccddeeff'
const debian = loadersAmong(['undionly.kpxe', 'ipxe.pxe', 'snponly.efi', 'ipxe.efi', 'ipxe.lkrn', 'ipxe.iso'])
const own = loadersAmong(['undionly.kpxe', 'snponly.efi', 'snp.efi', 'snp-arm64.efi'])

const client = (program: Program, architecture: Architecture, id: string | undefined = uuid): Client => ({
  mac,
  program,
  architecture,
  uuid: id,
})
const ipxe = (architecture: Architecture, features: readonly string[], version = '1.0.0'): Client =>
  client({ kind: 'ipxe', features: new Set(features), version }, architecture)

const facts = (who: Client, more: Partial<BootFacts> = {}): BootFacts => ({
  client: who,
  standing: 'admitted',
  transport: 'auto',
  loaders: debian,
  httpsServed: true,
  firmwareTrustsUs: false,
  diskOnVlan: false,
  loaderWasTried: false,
  ...more,
})

/** What matters of a plan: 'tftp undionly.kpxe', 'script http', 'hold', 'addressOnly'. */
function brief(plan: Plan): string {
  if (plan.kind === 'loader') return `${plan.via} ${plan.file}`
  return plan.kind === 'script' ? `script ${plan.via}` : plan.kind
}

const pxe: Program = { kind: 'pxe' }
const full = ['iscsi', 'http', 'dns', 'tftp', 'aoe', 'menu', 'vlan']

const rows: ReadonlyArray<[firmware: string, facts: BootFacts, gets: string]> = [
  ['a plain PXE ROM', facts(client(pxe, 'bios')), 'tftp undionly.kpxe'],
  ['OVMF PXE', facts(client(pxe, 'x86_64')), 'tftp snponly.efi'],
  ['OVMF HTTP', facts(client({ kind: 'uefiHttp' }, 'x86_64')), 'http snponly.efi'],
  [
    'OVMF HTTP with our CA enrolled',
    facts(client({ kind: 'uefiHttp' }, 'x86_64'), { firmwareTrustsUs: true }),
    'https snponly.efi',
  ],
  ['UEFI PXE on arm64 with nothing made for it', facts(client(pxe, 'arm64')), 'hold'],
  ['UEFI PXE on 32 bits', facts(client(pxe, 'x86')), 'hold'],
  ['UEFI PXE on arm64', facts(client(pxe, 'arm64'), { loaders: own }), 'tftp snp-arm64.efi'],
  [
    'U-Boot x86, plain, with an iPXE that it would never wake',
    facts(client({ kind: 'uboot', distro: false }, 'unknown', undefined)),
    'hold',
  ],
  [
    'U-Boot x86, plain',
    facts(client({ kind: 'uboot', distro: false }, 'unknown', undefined), { loaders: own }),
    'tftp snp.efi',
  ],
  [
    'U-Boot arm64, plain',
    facts(client({ kind: 'uboot', distro: false }, 'arm64', undefined), { loaders: own }),
    'tftp snp-arm64.efi',
  ],
  [
    'U-Boot distro boot',
    facts(client({ kind: 'uboot', distro: true }, 'x86_64', undefined), { loaders: own }),
    'tftp snp.efi',
  ],
  ['U-Boot on a processor nothing is made for', facts(client({ kind: 'uboot', distro: true }, 'riscv64')), 'hold'],
  ['iPXE ROM of 2019 (BIOS)', facts(ipxe('bios', full)), 'script http'],
  [
    'undionly.kpxe of 2019, asked again after it was loaded',
    facts(ipxe('bios', full), { loaderWasTried: true }),
    'script http',
  ],
  ['iPXE 2.0 (UEFI), which has HTTPS', facts(ipxe('x86_64', [...full, 'https', 'efi'], '2.0.0')), 'script https'],
  [
    'the same while we serve no HTTPS',
    facts(ipxe('x86_64', [...full, 'https']), { httpsServed: false }),
    'script http',
  ],
  [
    'the same where the policy says open',
    facts(ipxe('x86_64', [...full, 'https']), { transport: 'open' }),
    'script http',
  ],
  ['an iPXE ROM without iSCSI', facts(ipxe('bios', ['http', 'tftp'])), 'http undionly.kpxe'],
  ['an iPXE ROM without iSCSI and HTTP', facts(ipxe('bios', ['tftp'])), 'tftp undionly.kpxe'],
  [
    'an iPXE without iSCSI that came back without it: no second round',
    facts(ipxe('bios', ['http']), { loaderWasTried: true }),
    'script http',
  ],
  ['an iPXE without iSCSI when there is none with it', facts(ipxe('arm64', ['http'])), 'script http'],
  ['an iPXE without HTTP when there is none with it', facts(ipxe('arm64', ['tftp', 'iscsi'])), 'hold'],
  ['an iPXE that says nothing of itself', facts(ipxe('bios', [])), 'script http'],
  [
    'strict: an iPXE without HTTPS gets one that has it',
    facts(ipxe('x86_64', full), { transport: 'strict', loaders: own }),
    'http snp.efi',
  ],
  [
    'strict: and where there is none, the script that says so',
    facts(ipxe('bios', full), { transport: 'strict' }),
    'script http',
  ],
  [
    'a held machine gets what it takes to say so on its screen',
    facts(client(pxe, 'bios'), { standing: 'held' }),
    'tftp undionly.kpxe',
  ],
  ['a held iPXE', facts(ipxe('bios', full), { standing: 'held' }), 'script http'],
  ['a refused PXE ROM', facts(client(pxe, 'bios'), { standing: 'refused' }), 'addressOnly'],
  ['a refused iPXE', facts(ipxe('bios', full), { standing: 'refused' }), 'addressOnly'],
  [
    'strict: OVMF gets the loader that has HTTPS, though another stands before it',
    facts(client(pxe, 'x86_64'), { transport: 'strict', loaders: own }),
    'tftp snp.efi',
  ],
  ["Linux's ipconfig", facts(client({ kind: 'linuxIpconfig' }, 'unknown')), 'addressOnly'],
  ['a phone', facts(client({ kind: 'other' }, 'unknown')), 'addressOnly'],
  ['a PXE ROM when there are no loaders', facts(client(pxe, 'bios'), { loaders: [] }), 'hold'],
]

test.for(rows)('%s', ([, given, gets]) => {
  expect(brief(planBoot(given))).toBe(gets)
})

const anyClient: fc.Arbitrary<Client> = fc.record({
  mac: fc.constant(mac),
  uuid: fc.constantFrom(undefined, uuid),
  architecture: fc.constantFrom<Architecture>(
    'bios',
    'x86',
    'x86_64',
    'arm32',
    'arm64',
    'riscv64',
    'loongarch64',
    'unknown',
  ),
  program: fc.oneof(
    fc.constantFrom<Program>(pxe, { kind: 'uefiHttp' }, { kind: 'linuxIpconfig' }, { kind: 'other' }),
    fc.boolean().map((distro): Program => ({ kind: 'uboot', distro })),
    fc
      .subarray([...full, 'https'])
      .map((features): Program => ({ kind: 'ipxe', features: new Set(features), version: undefined })),
  ),
})
const anyFacts: fc.Arbitrary<BootFacts> = fc.record({
  client: anyClient,
  standing: fc.constantFrom('admitted', 'held', 'refused'),
  transport: fc.constantFrom('strict', 'auto', 'open'),
  loaders: fc.subarray<Loader>([...new Set([...debian, ...own])]),
  httpsServed: fc.boolean(),
  diskOnVlan: fc.boolean(),
  firmwareTrustsUs: fc.boolean(),
  loaderWasTried: fc.boolean(),
})

test('nobody gets a program made for another processor, or one that is not there', () => {
  fc.assert(
    fc.property(anyFacts, (given) => {
      const plan = planBoot(given)
      expect(plan.reason).not.toBe('')
      if (plan.kind !== 'loader') return
      const loader = given.loaders.find(({ file }) => file === plan.file)
      expect(loader).toBeDefined()
      const { architecture, program } = given.client
      expect([architecture, 'unknown']).toContain(architecture === 'unknown' ? 'unknown' : loader?.architecture)
      if (program.kind === 'uboot') expect(loader?.runsUnderUboot).toBe(true)
    }),
    { numRuns: 2_000 },
  )
})

test('an iPXE that was given a loader is never given another', () => {
  fc.assert(
    fc.property(anyFacts, (given) => {
      if (given.client.program.kind !== 'ipxe') return
      expect(planBoot({ ...given, loaderWasTried: true }).kind).not.toBe('loader')
    }),
  )
})

test('a refused machine gets nothing to boot, whatever it is', () => {
  fc.assert(
    fc.property(anyFacts, (given) => {
      expect(planBoot({ ...given, standing: 'refused' }).kind).toBe('addressOnly')
    }),
  )
})

describe('which script', () => {
  const asked = (more: Partial<ScriptFacts>): ScriptFacts => ({
    standing: 'admitted',
    transport: 'auto',
    secure: false,
    httpsServed: true,
    features: new Set(full),
    hadHttps: undefined,
    required: 'admission',
    certificate: 'none',
    certificateAsked: false,
    signedIn: false,
    diskOnVlan: false,
    waited: false,
    ...more,
  })
  // Who must prove something has transport strict: Fleet.transportOf.
  const proving = (required: Proof, more: Partial<ScriptFacts>): ScriptFacts =>
    asked({ required, transport: 'strict', secure: true, ...more })
  const withTls = new Set([...full, 'https'])

  test.for([
    ['an admitted machine by HTTP, its iPXE has no HTTPS', asked({}), 'boot'],
    ['the same by HTTPS', asked({ secure: true }), 'boot'],
    ['somebody asks by HTTP in the name of one that has HTTPS', asked({ features: withTls }), 'refused needsTls'],
    ['the same while our HTTPS is down', asked({ features: withTls, httpsServed: false }), 'tls later'],
    [
      'the same, not heard since a restart of ours',
      asked({ features: undefined, hadHttps: true, httpsServed: false }),
      'tls later',
    ],
    ['the same, strict', asked({ features: withTls, transport: 'strict', httpsServed: false }), 'tls later'],
    ['the same, when it asks again and HTTPS is back', asked({ features: withTls, waited: true }), 'tls now'],
    ['one without HTTPS while ours is down', asked({ httpsServed: false }), 'boot'],
    ['one without HTTPS that waited to be admitted', asked({ waited: true }), 'boot'],
    ['the same before the iPXE has spoken again', asked({ features: undefined, hadHttps: true }), 'refused needsTls'],
    ['an iPXE that took the place of one that had HTTPS', asked({ hadHttps: true }), 'boot'],
    ['the same where the policy says open', asked({ features: withTls, transport: 'open' }), 'boot'],
    ['strict, by HTTP', asked({ transport: 'strict' }), 'refused needsTls'],
    ['strict, by HTTPS', asked({ transport: 'strict', secure: true }), 'boot'],
    ['an iPXE without iSCSI', asked({ features: new Set(['http']) }), 'refused needsIscsi'],
    [
      'a disk on a VLAN, and an iPXE that cannot join one',
      asked({ diskOnVlan: true, features: new Set(['iscsi', 'http']) }),
      'refused needsVlan',
    ],
    ['a disk on a VLAN, and an iPXE that can', asked({ diskOnVlan: true }), 'boot'],
    ['a disk on a VLAN, and an iPXE that says nothing', asked({ diskOnVlan: true, features: new Set() }), 'boot'],
    ['an iPXE that was never heard by DHCP', asked({ features: undefined }), 'boot'],
    ['a held machine', asked({ standing: 'held' }), 'held'],
    [
      'a held machine, strict, by HTTP: it may be told to wait',
      asked({ standing: 'held', transport: 'strict' }),
      'held',
    ],
    ['a refused machine', asked({ standing: 'refused', secure: true }), 'refused machine'],
    ['a certificate required, by HTTP', proving('certificate', { secure: false }), 'refused needsTls'],
    ['a certificate required, where none is asked for', proving('certificate', {}), 'prove'],
    [
      'a certificate required and asked for, none shown',
      proving('certificate', { certificateAsked: true }),
      'refused needsCertificate',
    ],
    ['a certificate required and shown', proving('certificate', { certificate: 'good' }), 'boot certificate'],
    ['a certificate required, and a person signed in', proving('certificate', { signedIn: true }), 'prove'],
    [
      'a revoked one, where none is required',
      asked({ secure: true, certificate: 'revoked' }),
      'refused certificateRevoked',
    ],
    ["another machine's", proving('certificate', { certificate: 'ofAnother' }), 'refused certificateOfAnother'],
    ['one that nobody made here', proving('certificate', { certificate: 'unknown' }), 'refused certificateUnknown'],
    ['one that is out of date', proving('certificate', { certificate: 'unfit' }), 'refused certificateUnfit'],
    ['a good one of a machine that is held', asked({ standing: 'held', certificate: 'good' }), 'held'],
    ['a login required, by HTTP', proving('login', { secure: false }), 'refused needsTls'],
    ['a login required', proving('login', {}), 'signIn'],
    ['a login required and done', proving('login', { signedIn: true }), 'boot login'],
    [
      'a login required, a certificate shown: the stronger does',
      proving('login', { certificate: 'good' }),
      'boot certificate',
    ],
    ['a login that nobody asked for', asked({ secure: true, signedIn: true }), 'boot login'],
  ] as const)('%s', ([, given, gets]) => {
    const choice = chooseScript(given)
    const what =
      choice.script === 'refused'
        ? choice.why
        : choice.script === 'boot'
          ? choice.proved
          : choice.script === 'tls'
            ? choice.served
              ? 'now'
              : 'later'
            : ''
    expect(`${choice.script} ${what}`.trim()).toBe(gets === 'boot' ? 'boot admission' : gets)
  })

  test('whatever is shown, nothing less than what is required opens a disk', () => {
    const strength = { admission: 0, login: 1, certificate: 2 }
    const proof = fc.constantFrom('admission' as const, 'login' as const, 'certificate' as const)
    const facts = fc.record({
      standing: fc.constantFrom('admitted' as const, 'held' as const, 'refused' as const),
      transport: fc.constant('strict' as const),
      secure: fc.boolean(),
      httpsServed: fc.boolean(),
      diskOnVlan: fc.constant(false),
      features: fc.constant(undefined),
      hadHttps: fc.constantFrom(undefined, true, false),
      waited: fc.boolean(),
      required: proof,
      certificate: fc.constantFrom(
        'none' as const,
        'good' as const,
        'unknown' as const,
        'ofAnother' as const,
        'revoked' as const,
        'unfit' as const,
      ),
      certificateAsked: fc.boolean(),
      signedIn: fc.boolean(),
    })
    fc.assert(
      fc.property(facts, (given) => {
        const choice = chooseScript(given)
        if (choice.script !== 'boot') return
        expect(given).toMatchObject({ standing: 'admitted', secure: true })
        expect(strength[choice.proved]).toBeGreaterThanOrEqual(strength[given.required])
        if (choice.proved === 'certificate') expect(given.certificate).toBe('good')
        if (choice.proved === 'login') expect(given.signedIn).toBe(true)
      }),
    )
  })
})

describe('a loader by what is in it', () => {
  const seen = (more: Partial<SeenLoader>): SeenLoader => ({
    kind: 'ipxe',
    form: 'efiApplication',
    firmware: 'x86_64',
    can: { https: 'no', http: 'yes', iscsi: 'yes', vlan: 'no', tftp: 'yes' },
    sleepCount: 1,
    ...more,
  })

  test('its name decides nothing that its bytes tell', () => {
    expect(loaderFrom('snp.efi', seen({}))).toMatchObject({
      platform: 'efi',
      architecture: 'x86_64',
      runsUnderUboot: false,
    })
    expect(loaderFrom('snp.efi', seen({}))?.features.has('https')).toBe(false)
    expect(loaderFrom('mine.efi', seen({ sleepCount: 0 }))?.runsUnderUboot).toBe(true)
    expect(loaderFrom('mine.efi', seen({ firmware: 'arm64' }))?.architecture).toBe('arm64')
  })

  test('what its bytes hide is taken from its name', () => {
    const hidden = { https: 'unknown', http: 'unknown', iscsi: 'unknown', vlan: 'unknown', tftp: 'unknown' } as const
    const loader = loaderFrom('undionly.kpxe', seen({ firmware: 'bios', form: 'pxe', can: hidden }))
    expect(loader?.features.has('iscsi')).toBe(true)
    expect(loader?.features.has('https')).toBe(false)
  })

  test.for([
    ['a GRUB', seen({ kind: 'grub' })],
    ['a driver', seen({ form: 'efiDriver' })],
    ['a kernel for another loader', seen({ firmware: 'bios', form: 'kernel' })],
    ['something for no firmware', seen({ firmware: undefined })],
  ] as const)('%s is handed to nobody', ([, what]) => {
    expect(loaderFrom('x', what)).toBeUndefined()
  })

  test('the firmware-driven ones come first', () => {
    const of = (file: string): Loader[] => [loaderFrom(file, seen({}))].filter((loader) => loader !== undefined)
    const files = ['my-ipxe.efi', 'my-snponly.efi', 'ipxe.efi', 'snponly.efi', 'a.efi']
    expect(inOrder(files.flatMap(of)).map(({ file }) => file)).toEqual([
      'snponly.efi',
      'ipxe.efi',
      'my-snponly.efi',
      'a.efi',
      'my-ipxe.efi',
    ])
  })
})

test('clients are described in words, and a name that climbs is no loader', () => {
  expect(describeClient(client(pxe, 'x86_64'))).toBe('UEFI x86_64 by PXE')
  expect(describeClient(client(pxe, 'unknown'))).toBe('PXE')
  expect(describeClient(ipxe('bios', full))).toBe('iPXE 1.0.0 on BIOS')
  expect(describeClient(client({ kind: 'uboot', distro: true }, 'arm64'))).toBe('U-Boot arm64')
  expect(knownLoader('../../etc/passwd')).toBeUndefined()
})
