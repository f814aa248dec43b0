/** Options that several commands share, and how their words become values. */
import { InvalidArgumentError } from 'commander'
import { parseBytes } from '../base/units.ts'

export function port(text: string): number {
  const value = Number(text)
  if (Number.isInteger(value) && value >= 1 && value <= 65_535) return value
  throw new InvalidArgumentError('A port is a number from 1 to 65535.')
}

/** 0, 1, 2, ... */
export function wholeNumber(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text)
  throw new InvalidArgumentError('This is a whole number, such as 2.')
}

/** '512MiB'. */
export function bytes(text: string): number {
  const value = parseBytes(text)
  if (value !== undefined) return value
  throw new InvalidArgumentError('A size is like 512MiB or 4G.')
}

/** '0.0.0.0:3260', '127.0.0.1', ':3260'. */
export function addressAndPort(text: string): { address: string; port: number | undefined } {
  const match = /^((?:\d{1,3}\.){3}\d{1,3})?(?::(\d+))?$/.exec(text)
  if (match === null || text === '') throw new InvalidArgumentError('Use ADDRESS:PORT, such as 127.0.0.1:3260.')
  return { address: match[1] ?? '0.0.0.0', port: match[2] === undefined ? undefined : port(match[2]) }
}
