/** A script is held in the machine's memory; ours are under 4 KiB, and nobody's needs more. */
export const scriptBytesMax: number = 256 * 1024
export const lineCharactersMax = 4_096
export const linesMax = 8_192

/** Scripts loop on purpose (a menu, waiting for admission). A run is over after this many commands, whatever it does. */
export const commandsPerRunMax = 10_000

/** Values may contain settings, whose values may contain settings: iPXE goes on until its memory ends. */
export const expansionsPerWordMax = 100
export const expandedCharactersMax = 16_384

/** Scripts that chain scripts, each waiting for the next. */
export const scriptDepthMax = 16

/** Of a value that somebody else chose, this much gets into a script. */
export const foreignCharactersMax = 128
