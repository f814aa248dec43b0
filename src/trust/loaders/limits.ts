/** GRUB with all its modules is 4 MiB, a kernel 15 MiB. A unified kernel image may be larger: it is not read whole. */
export const loaderBytesMax: number = 64 * 1024 * 1024
/** More than one is already a reason to refuse; this bounds the looking. */
export const sleepCountMax: number = 64
/** How many places of one fingerprint are told of. */
export const pinCountMax: number = 16
/** An iPXE with every driver unpacks to 2 MiB. */
export const unpackedBytesMax: number = 8 * 1024 * 1024
/** iPXE's own prefix, which is not packed: 3 to 5 KiB, a ROM's or a kernel's header before it. */
export const prefixBytesMax: number = 64 * 1024
