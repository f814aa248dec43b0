/** Every bound of this room. Reaching one is a normal outcome with its own sense code. */
import { mebibyte } from '../base/units.ts'

/**
 * Most bytes one READ, WRITE or VERIFY moves: MAXIMUM TRANSFER LENGTH of the block limits page. Firmware that never
 * looks there asks for 1456 blocks at most (iPXE on EFI); Linux and EDK2 look.
 */
export const transferBytesMax: number = 16 * mebibyte

/** OPTIMAL TRANSFER LENGTH: what a Linux initiator reads ahead by. */
export const transferBytesOptimal: number = mebibyte

/** Memory for comparing, copying and filling: one piece at a time. */
export const pieceBytes: number = mebibyte

/** COMPARE AND WRITE holds its range while it works: small. One byte in its CDB and in the block limits page. */
export const compareBlocksMax: number = 255

/** WRITE ATOMIC (16). */
export const atomicBytesMax: number = mebibyte

/** Descriptors in one UNMAP, and blocks it may name in all. */
export const unmapDescriptorsMax: number = 256
export const unmapBlocksMax: number = 1024 * 1024

/** WRITE SAME writes every byte when the pattern is not zero: 256 MiB take a second or so. */
export const writeSameBytesMax: number = 256 * mebibyte

/** PRE-FETCH reads no further than this: nobody's cache is ours alone. */
export const prefetchBytesMax: number = 4 * mebibyte

/** Initiator ports with a persistent registration, at one logical unit. */
export const registrationsMax: number = 1024

/** Tasks that wait behind an ordered one; the next gets TASK SET FULL. */
export const waitingTasksMax: number = 4096
