/** A Debian initramfs with all modules is 80 MB packed and 300 MB unpacked. */
export const initramfsBytesMax: number = 256 * 1024 * 1024
export const unpackedBytesMax: number = 768 * 1024 * 1024
/** With all modules it has about 4000. */
export const archiveEntryCountMax: number = 100_000
/** cpio's own longest name is PATH_MAX. */
export const archiveNameBytesMax: number = 4096
/** Microcode for two makers, then the archive proper. */
export const archiveSegmentCountMax: number = 16
/** A configuration file that a person wrote. */
export const configurationBytesMax: number = 1024 * 1024
/** Files of one drop-in folder that are looked at. */
export const dropInCountMax: number = 100
/** Kernels of one image whose initramfs is looked at: the newest boots. */
export const checkedKernelCountMax: number = 3
/** An image's name is a part of file names (255 bytes) and is shown in columns. */
export const imageNameCharactersMax: number = 64
/** A packed image may unpack to this and no more: larger disks are rarer than mistakes and malice. */
export const imageBytesMax: number = 64 * 1024 ** 4
/** A boot loader that `--fix` copies: a shim or GRUB with all its modules is 2 to 5 MB. */
export const copiedFileBytesMax: number = 64 * 1024 * 1024
