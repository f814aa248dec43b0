/** Every bound of this room. Reaching one is a normal outcome with its own sense code. */
import { kibibyte, mebibyte } from '../base/units.ts'

/**
 * Most bytes one READ, WRITE or VERIFY moves: MAXIMUM TRANSFER LENGTH of the block limits page. Firmware that never
 * looks there asks for 1456 blocks at most (iPXE on EFI); Linux and EDK2 look.
 */
export const transferBytesMax: number = 16 * mebibyte

/** OPTIMAL TRANSFER LENGTH: what a Linux initiator reads ahead by. */
export const transferBytesOptimal: number = mebibyte

/**
 * What is given back, and what small writes cost least in: a block of the file systems that disks lie on, and two subclusters of a
 * clone. OPTIMAL TRANSFER LENGTH GRANULARITY and OPTIMAL UNMAP GRANULARITY.
 */
export const granuleBytes: number = 4 * kibibyte

/** Memory for comparing, copying and filling: one piece at a time. */
export const pieceBytes: number = mebibyte

/** COMPARE AND WRITE holds its range while it works: small. One byte in its CDB and in the block limits page. */
export const compareBlocksMax: number = 255

/** WRITE ATOMIC (16). */
export const atomicBytesMax: number = mebibyte

/** Descriptors in one UNMAP, and blocks it may name in all. */
export const unmapDescriptorsMax: number = 256
export const unmapBlocksMax: number = 1024 * 1024

/** Descriptors in one answer to GET LBA STATUS. */
export const statusDescriptorsMax: number = 1024

/**
 * How many extents of the device one GET LBA STATUS looks at, and after how many of them others have a turn: a scattered image
 * has one for each cluster. The answer is then shorter than it might be, and the initiator asks on where it ends.
 */
export const statusExtentsMax: number = 16_384
export const statusExtentsOfTurn: number = 256

/** WRITE SAME: what the length field of WRITE SAME (10) can say. Every byte is written when the pattern is not zero. */
export const writeSameBlocksMax: number = 0xffff

/** PRE-FETCH reads no further than this: nobody's cache is ours alone. */
export const prefetchBytesMax: number = 4 * mebibyte

/** Initiator ports with a persistent registration, at one logical unit. */
export const registrationsMax: number = 1024

/** Tasks that wait behind an ordered one; the next gets TASK SET FULL. */
export const waitingTasksMax: number = 4096

/**
 * SANITIZE OVERWRITE goes no faster, and takes this long on the smallest disk, so that other disks are not slowed down by a job
 * that is in no hurry, and whoever began it can see that it goes on. Only where the house gives this room a way to pause.
 */
export const sanitizeBytesPerSecond: number = 64 * mebibyte
export const sanitizeMsMin = 10_000

/** One EXTENDED COPY: target descriptors, segment descriptors, and blocks of one segment (its field has 16 bits). */
export const copyTargetsMax: number = 8
export const copySegmentsMax: number = 16
export const copySegmentBlocksMax: number = 0xffff

/** EXTENDED COPYs of one unit that run at once; results of one initiator that are kept until it asks. */
export const copiesMax: number = 8
export const copyResultsMax: number = 16
