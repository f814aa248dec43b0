/** A flood of invented MAC addresses must not fill the disk: the machine nobody decided about longest ago makes room. */
export const undecidedMachinesMax = 4_096

/** How stale `lastSeenMs` may be in the store: a boot asks a dozen times, and one write for all of them is enough. */
export const lastSeenStaleMs = 60_000

/**
 * Credentials handed out and not yet used, for one machine. A machine asks for its script once a boot, and again when
 * somebody presses Ctrl-C; asking more often must not grow anything. More than a machine needs, so that whoever asks in its
 * name needs as many addresses to make the machine's own script worthless.
 */
export const offeredCredentialsMax = 16

/** A script that was fetched this long ago and never used will not be: the slowest retries end within ten minutes. */
export const offerValidMs: number = 30 * 60_000

/** RFC 7143 §4.2.7.1: iSCSI names are at most 223 bytes of UTF-8. */
export const iscsiNameBytesMax = 223

/** What a machine says of itself (SMBIOS serial) and what people call it. */
export const serialCharactersMax = 64
export const machineNameCharactersMax = 63

/** iPXE's `login` takes 63 characters of each (src/hci/tui/login_ui.c). */
export const accountNameCharactersMax = 32
/** NIST SP 800-63B §5.1.1.1. */
export const passwordCharactersMin = 8
export const passwordCharactersMax = 63

export type SignInLimits = {
  readonly freeTries: Readonly<Record<'address' | 'account', number>>
  readonly firstPauseMs: number
  readonly pauseMsMax: Readonly<Record<'address' | 'account', number>>
  readonly forgottenMs: number
  readonly remembered: number
}

/** Wrong passwords: see sign-in-limit.ts. */
export const signInLimits: SignInLimits = {
  freeTries: { address: 3, account: 10 },
  firstPauseMs: 5_000,
  /** An hour of trying is then some twenty tries from one address, and some seventy at one account. */
  pauseMsMax: { address: 180_000, account: 60_000 },
  forgottenMs: 60 * 60_000,
  /** Addresses, and accounts, whose failures are remembered. */
  remembered: 1_024,
}
