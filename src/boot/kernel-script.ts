/** The script that starts a Linux without its boot loader: kernel, initramfs, and behind them what this boot has to know. */
import type { Mac } from '../base/address.ts'
import type { Secret } from '../base/secret.ts'
import {
  and,
  blank,
  boot,
  chainReplace,
  clear,
  comment,
  echo,
  exit,
  goto,
  imgfreeAll,
  initrd,
  iseq,
  kernel,
  label,
  line,
  or,
  plain,
  plainText,
  secret,
  set,
  setting,
  sleep,
  whatever,
  word,
} from '../ipxe/command.ts'
import type { Line, Script, Word } from '../ipxe/script.ts'
import { diskPausesSeconds, refusalSeconds } from './limits.ts'
import { firmwareVendor, giveUp, pause, report, tries, uriWord } from './scripts.ts'

export type KernelScriptFacts = {
  readonly mac: Mac
  /** What people call the disk. */
  readonly image: string
  readonly bootId: string
  /** Where it is fetched from, for people. */
  readonly address: string
  /** `linuxUrl` of the parts: by name and password, so that neither is shown nor logged. */
  readonly files: LinuxFiles
  /** From the image's own menu, with what the network takes; `kernelLine`. */
  readonly words: readonly string[]
  /** Its processor is one of the PC's. */
  readonly isPc: boolean
  /** Where failures are told; `reportUrl`. */
  readonly reportUrl: string
  /** Where a fresh script is: this one's files are gone when another boot has begun; undefined: enough of that. */
  readonly refetchUrl: string | undefined
}

export type LinuxFiles = {
  /** Of the folder that has them, in two pieces: the key goes in between. */
  readonly url: { readonly scheme: string; readonly rest: string }
  readonly key: Secret
  /** Names in that folder. */
  readonly kernel: string
  readonly initramfs: readonly string[]
}

/**
 * U-Boot hands Linux bad MTRRs and crashes in SetVirtualAddressMap; without ACPI tables Linux tests whether the timer ticks, and
 * takes one that an emulator is late with for broken (docs/quirks.md).
 */
const quirksOfUboot = ['disable_mtrr_trim', 'efi=noruntime', 'no_timer_check']
const quirks = 'slipway-quirks'

/** Holds the key to the boot's secrets: print it for the machine only. */
export function kernelScript(facts: KernelScriptFacts): Script {
  const { files, mac, refetchUrl } = facts
  const uri = (name: string): Word =>
    word(`${files.url.scheme}${facts.bootId}:`, secret(files.key), `@${files.url.rest}/${name}`)
  // Each is an image of its own: an EFI kernel of before 5.8 asks for them by name (iPXE of 2019 has no other way).
  const names = [...files.initramfs, settingsFile].map((name) => `slipway-${name}`)
  const argumentWords = [...names.map((name) => `initrd=${name}`), ...facts.words].map((each) => word(each))
  return [
    comment(`Slipway: boot ${facts.bootId} of ${plain(mac)}`),
    line(echo('')),
    line(echo(`Slipway: ${plain(mac)} starts the kernel of ${plainText(facts.image)} from ${facts.address}`)),
    // Settings outlive a script: what somebody typed to sign in, and secrets of a script before.
    ...['username', 'password', 'reverse-username', 'reverse-password'].map((name) => line(clear(name), whatever)),
    line(set('slipway-firmware', 'by-', setting(firmwareVendor))),
    line(clear(quirks), whatever),
    ...(facts.isPc
      ? [
          line(
            iseq(setting('slipway-firmware'), 'by-U-Boot'),
            and([word('set'), word(quirks), ...quirksOfUboot.map((each) => word(each))]),
            whatever,
          ),
        ]
      : []),
    line(imgfreeAll, whatever),
    line(kernel('slipway-kernel', uri(files.kernel), [...argumentWords, word(setting(quirks))]), or(goto('failed'))),
    ...[...files.initramfs, settingsFile].map((name) => line(initrd(`slipway-${name}`, uri(name)), or(goto('failed')))),
    line(boot, and(goto('returned')), whatever),
    blank,
    label('failed'),
    line(set('slipway-error', setting('errno:hexraw'))),
    line(imgfreeAll, whatever),
    ...report(facts.reportUrl, 'kernel-failed', setting('slipway-error')),
    line(echo('Slipway: the kernel was not started. Why stands above; more at')),
    line(echo(word('https://ipxe.org/', setting('slipway-error')))),
    ...(refetchUrl === undefined ? [line(goto('give-up'))] : askAgain(refetchUrl)),
    blank,
    label('returned'),
    line(echo('Slipway: the kernel handed the machine back.')),
    line(exit(1)),
    ...giveUp(facts.reportUrl, 'the kernel was not started', 'kernel-gave-up'),
  ]
}

/** The files of a script are gone when another boot has begun: only a new one helps. */
function askAgain(refetchUrl: string): Line[] {
  return [
    ...tries(diskPausesSeconds, 'ask', 'give-up'),
    blank,
    label('ask'),
    line(sleep('2'), or(goto('give-up'))),
    // `--replace` ends this script here; an older iPXE that goes on must not fall into the next step.
    line(chainReplace(uriWord(refetchUrl)), and(goto('give-up')), whatever),
    line(echo('Slipway does not answer, try', setting('slipway-try'), 'of', String(diskPausesSeconds.length + 1))),
    ...pause(),
  ]
}

/** The archive of this boot, in the folder of its files. */
export const settingsFile = 'settings'

/**
 * unopened: the disk itself. unreadable: no kernel that Slipway can read. noIscsi: its initramfs cannot log in. unsayable: its command line cannot be
 * handed on by iPXE.
 */
export type NoKernel = 'unopened' | 'unreadable' | 'noIscsi' | 'unsayable'

const advice: Readonly<Record<NoKernel, readonly [what: string, next: string]>> = {
  unopened: ['this server cannot open the disk', 'Why is in its events; the machine asks again by a reset.'],
  unreadable: ['no kernel that Slipway can read is on', 'It reads GRUB menus and boot loader entries on ext4 and FAT.'],
  noIscsi: [
    'the initramfs cannot log in to a disk by iSCSI, on',
    'In the image: apt install open-iscsi, or dracut -f --add iscsi.',
  ],
  unsayable: ['iPXE cannot hand on the kernel command line of', 'Make it shorter, and plain ASCII.'],
}

/** What it is, for events: the same words as on the screen. */
export function noKernelWords(why: NoKernel): { readonly reason: string; readonly hint: string } {
  const [reason, hint] = advice[why]
  return { reason, hint }
}

/** Says why the kernel is not started and what to do, leaves time to read it, and gives the machine back. */
export function noKernelScript(facts: { readonly mac: Mac; readonly image: string; readonly why: NoKernel }): Script {
  const [what, next] = advice[facts.why]
  return [
    comment(`Slipway: ${plain(facts.mac)} has no kernel to start`),
    line(echo('')),
    line(echo(`Slipway: ${what} ${plainText(facts.image)}`)),
    line(echo(next)),
    line(echo('On the server, type: slipway image check')),
    line(sleep(String(refusalSeconds)), whatever),
    line(exit(1)),
  ]
}
