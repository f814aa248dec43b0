/** Every bound of this room. Reaching one is a normal outcome with a status of its own. */
import { kibibyte, mebibyte } from '../base/units.ts'

/**
 * Data segment of one PDU during login, and the default of MaxRecvDataSegmentLength until something else is declared.
 * RFC 7143 §13.12.
 */
export const loginSegmentBytesMax: number = 8 * kibibyte
/** What we declare as MaxRecvDataSegmentLength: one PDU carries what open-iscsi and libiscsi send at most. */
export const receiveSegmentBytesMax: number = 256 * kibibyte
/** Text of one negotiation, over all its PDUs (C bit). An honest login is under 1 KiB; two CHAP challenges of 1024 bytes in hex are 4 KiB. */
export const negotiationTextBytesMax: number = 16 * kibibyte
/** Keys in one negotiation. RFC 7143 defines under 40. */
export const negotiationKeysMax = 128
/** RFC 7143 §6.1. */
export const keyNameBytesMax = 63
/** Requests until a login must be over: an honest one takes four. */
export const loginRequestsMax = 32
/** RFC 7143 §4.2.7.1: iSCSI names are at most 223 bytes. */
export const nameBytesMax = 223

/** From the accepted connection to full-feature phase. iPXE takes 10 ms, a person at a debugger does not matter. */
export const loginWithinMs = 15_000
/** Connections that have not logged in. Past it the oldest of the address that has most of them makes room. */
export const pendingLoginsMax = 1_024
/** All connections. Past it new ones are closed at once: a descriptor and its buffers each. */
export const connectionsMax = 8_192
/** Sessions in full-feature phase, discovery included. */
export const sessionsMax = 4_096

/** The same from one address: a lab behind one router fits, and nobody takes all. */
export const sessionsOfAddressMax = 2_048
/** A discovery session in which nothing is said ends. open-iscsi and firmware ask at once and log out. */
export const discoverySilenceMs = 60_000

/** Commands that one session may have under way: MaxCmdSN runs this far ahead. Linux asks for 128 at most. */
export const commandWindow = 128
/** Data of pings and texts that came before their turn. With one connection nothing comes early from an honest initiator. */
export const heldBytesMax: number = 1 * mebibyte
/** Immediate commands do not obey the window, so they have a bound of their own. RFC 7143 §4.2.2.1. */
export const immediateTasksMax = 16
/** BHS extras: an extended CDB of 260 bytes and a bidirectional length, with their own headers. RFC 7143 §11.2.2. */
export const additionalHeaderBytesMax = 272

/** MaxBurstLength that we agree to: one R2T asks for this much. */
export const burstBytesMax: number = 1 * mebibyte
/** FirstBurstLength: what may come unasked with each command, so it is small; it still covers the writes of a busy ext4. */
export const firstBurstBytesMax: number = 64 * kibibyte
/** MaxOutstandingR2T that we agree to. */
export const outstandingReadyToTransferMax = 8

/** Data-out held for one session. A command that comes while it is used up waits for its R2T, or is told BUSY. */
export const sessionDataOutBytesMax: number = 16 * mebibyte
/** The same over all sessions. */
export const totalDataOutBytesMax: number = 256 * mebibyte
/** What a session may hold also when all is used up: the small writes of a system go on, whatever others hold. */
export const sessionDataOutFloorBytes: number = 1 * mebibyte
/** While others wait for data-out memory: how long an initiator may leave us without the data that it was asked for. */
export const dataOutWithinMs = 30_000
/** Buffers kept for the next write command instead of asking the system for zeroed memory each time: 16 of 256 KiB. */
export const idleDataOutBytesMax: number = 4 * mebibyte

/** From this much on, the rest of a data segment is received straight into its buffer; less comes with what follows it. */
export const directReceiveBytesMin: number = 16 * kibibyte

/**
 * Bytes for one connection that the kernel has not taken yet. Past it commands wait unexecuted, so a client that stops
 * reading holds this much and no more; at half of it they go on.
 */
export const sendQueueBytesMax: number = 1 * mebibyte
/**
 * Data that commands of one session may be reading from a device that answers later: what they were promised has to be held. One
 * command is always let run, whatever it reads.
 */
export const readingBytesMax: number = 4 * mebibyte
/** The same over all sessions. Past it each has one such command at a time. */
export const totalReadingBytesMax: number = 256 * mebibyte
/** Past this the connection is not read either: even a rejection needs room. */
export const sendQueueBytesToPause: number = 2 * mebibyte
/** One slab of memory for what is sent. Holds several data-in PDUs of the largest usual size (256 KiB) with headers. */
export const slabBytes: number = 1 * mebibyte + 16 * kibibyte
/** Slabs kept when nothing uses them. */
export const idleSlabsMax = 8
/** Below this a lent block is copied beside its header: one piece more for the kernel costs more than the copy. */
export const lendBytesMin: number = 16 * kibibyte
/**
 * Lent pieces for one connection that have not left. Each may keep a whole segment of a cache (8 MiB) from being freed, so who does
 * not read gets copies. A queue full of 256 KiB reads does not come to it.
 */
export const lentPiecesMax = 16
/**
 * What waits in another slab than what a client has not taken yet, and is smaller than this, is copied: 48 unread bytes must not
 * keep a slab.
 */
export const slabShareBytesMin: number = 64 * kibibyte

/** RFC 7143 §9.2.1: "secrets shorter than 96 bits are not permitted" without IPsec. */
export const chapSecretBytesMin = 12
/** RFC 7143 §12.1.3: binary items of CHAP are at most 1024 bytes. */
export const chapBinaryBytesMax = 1_024
/** Ours. At least as long as the longest digest, so that guessing it is no easier than guessing the digest. */
export const chapChallengeBytes = 32
/** CHAP_A offers in one list. */
export const chapAlgorithmsMax = 32
/** Wrong secrets from one address until it is slowed down. A person mistypes twice. */
export const chapFailuresMax = 10
/** A failure is forgotten after this long. */
export const chapFailureForgottenMs = 60_000
/** How long a slowed address waits for each answer: doubles with each failure more, up to the second number. */
export const chapDelayMsMin = 500
export const chapDelayMsMax = 8_000
/** Logins of one slowed address that wait at once; others are turned away. */
export const chapDelayedLoginsMax = 4
/** Addresses whose failures are remembered. Past it the one seen longest ago is forgotten. */
export const chapAddressesMax = 4_096

/** Silence after which we send a NOP-In: its TCP acknowledgement (or reset) tells whether the machine is still there. */
export const pingAfterMs = 30_000
/** How long the peer may take to answer our FIN. */
export const lingerMs = 2_000
/** How often idle sessions and overdue logins are looked for. */
export const sweepEveryMs = 1_000
/** Time2Wait in an asynchronous message and the logout response: come back when you like. */
export const timeToWaitSeconds = 2
/** SendTargets answers, for all targets together. */
export const sendTargetsBytesMax: number = 256 * kibibyte
