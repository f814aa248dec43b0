/** How events are printed: one line for programs, one line for people. */

export type { BootEvent } from '../journal/events.ts'
export { humanLine, jsonLine } from '../journal/text.ts'
