/** What a disk may make us do. Every number on it is a stranger's; these hold whatever it says. */

/** UEFI asks for 128 entries (16 KiB); 1024 is more than any tool writes. */
export const gptEntryCountMax: number = 1024
/** UEFI 2.10 §5.3.2: 128 times a power of two; nothing writes more than 128 today. */
export const gptEntryBytesMax: number = 4096
/** A chain of extended boot records; Linux stops at 256 minors, and a chain may be a ring. */
export const logicalPartitionCountMax: number = 64
/** Microsoft's FAT specification allows 65,536 entries of 32 bytes in a directory; long names take several. */
export const fatDirectoryEntryCountMax: number = 65_536
/** A directory read whole: 16 MiB of ext4 directory is a quarter of a million names. */
export const directoryBytesMax: number = 16 * 1024 * 1024
/** How many pieces one file may be in before its map is refused as too scattered to hold in memory. */
export const fileRunCountMax: number = 262_144
/** ext4's own rule: an extent tree is at most 5 deep. */
export const extentDepthMax: number = 5
/** Linux follows 40 symbolic links in one path, then says ELOOP. */
export const symlinkCountMax: number = 40
/** PATH_MAX. */
export const pathBytesMax: number = 4096
/** `readWhole` on a file that nobody said may be bigger. */
export const wholeFileBytesMax: number = 64 * 1024 * 1024
/** The Windows loader takes 96 sections; a UKI has about a dozen. */
export const peSectionCountMax: number = 96
/** A signature with a chain of certificates is about 10 KiB; several may be stacked. */
export const peSignatureBytesMax: number = 1024 * 1024
export const peSignatureCountMax: number = 16
/** .sbat, .osrel, .cmdline: text of a few hundred bytes. */
export const peTextBytesMax: number = 64 * 1024
/** DER inside DER: a certificate is about 8 deep. */
export const derDepthMax: number = 32
/** El Torito: a catalogue is one sector of 64 entries of 32 bytes in everything seen. */
export const elToritoEntryCountMax: number = 64
/** Volume descriptors before the terminator. */
export const isoDescriptorCountMax: number = 32
/** Names in one directory that `inspect` looks at. */
export const inspectedFileCountMax: number = 256
/** A grub.cfg of a distribution has about 3,000 words, one that boots 50 kernels 30,000. */
export const grubTokenCountMax: number = 200_000
/** Blocks in blocks: menus of distributions are 4 deep. */
export const grubNestingMax: number = 32
/** Commands run for one entry: functions may call themselves. */
export const grubCommandCountMax: number = 20_000
/** Variables may hold variables' values: COMMAND_LINE_SIZE is 2048 on most processors, 4096 on some. */
export const grubWordCharactersMax: number = 8_192
/** Boot loader entries of one folder: each kernel has one, with rescue and snapshots perhaps a hundred. */
export const loaderEntryCountMax: number = 512
/** Of a boot menu, an environment block, an entry. */
export const bootMenuBytesMax: number = 1024 * 1024
/** Initramfs archives that one entry names: microcode, the system's, drop-ins. */
export const initramfsCountMax: number = 16
