/** Paths of the machine we run on, for rooms that name files but do not open them. */
export { basename, dirname, isAbsolute, join, resolve } from 'node:path'
