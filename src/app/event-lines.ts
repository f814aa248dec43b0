/** How events are printed: one line for programs, one line for people. */
export { humanLine, jsonLine } from '../journal/text.ts'
