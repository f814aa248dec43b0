/** Moments as certificates write them (RFC 5280 §4.1.2.5): UTCTime through 2049, GeneralizedTime from 2050. */
import type { DerValue } from '../disk/der.ts'
import { der } from './der-writer.ts'
import { unreadable } from './pem.ts'

export const dayMs: number = 86_400_000
const tag = { utcTime: 0x17, generalizedTime: 0x18 } as const

export function encodeTime(wallMs: number): Uint8Array {
  const { year, month, day, hour, minute, second } = civilOf(wallMs)
  const two = (value: number): string => String(value).padStart(2, '0')
  const rest = [month, day, hour, minute, second].map(two).join('')
  const isShort = year < 2050
  const text = isShort ? `${two(year % 100)}${rest}Z` : `${String(year).padStart(4, '0')}${rest}Z`
  return der(isShort ? tag.utcTime : tag.generalizedTime, new TextEncoder().encode(text))
}

/** @throws {OperationError} certificateUnreadable */
export function decodeTime(value: DerValue): number {
  const text = String.fromCharCode(...value.content.subarray(0, 32))
  const match = /^(\d\d|\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(text)
  const isShort = value.tag === tag.utcTime
  if (match === null || (match[1]?.length === 2) !== isShort) throw unreadable('a time that is none')
  const [, years = '', ...rest] = match
  const [month = 0, day = 0, hour = 0, minute = 0, second = 0] = rest.map(Number)
  const year = isShort ? Number(years) + (Number(years) < 50 ? 2000 : 1900) : Number(years)
  if (month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 59) {
    throw unreadable('a time that is none')
  }
  return daysOf(year, month, day) * dayMs + ((hour * 60 + minute) * 60 + second) * 1000
}

/** '2026-02-03'. */
export function formatDay(wallMs: number): string {
  const { year, month, day } = civilOf(wallMs)
  return `${year}-${String(month).padStart(2, '0')}-${String(day).padStart(2, '0')}`
}

interface Civil {
  readonly year: number
  readonly month: number
  readonly day: number
  readonly hour: number
  readonly minute: number
  readonly second: number
}

/** Gregorian, by eras of 400 years that begin in March, so that the leap day is a year's last (Howard Hinnant). */
function civilOf(wallMs: number): Civil {
  const days = Math.floor(wallMs / dayMs)
  const secondOfDay = Math.floor((wallMs - days * dayMs) / 1000)
  const shifted = days + 719_468
  const era = Math.floor(shifted / 146_097)
  const dayOfEra = shifted - era * 146_097
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365,
  )
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100))
  const marchMonth = Math.floor((5 * dayOfYear + 2) / 153)
  const month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
  return {
    year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0),
    month,
    day: dayOfYear - Math.floor((153 * marchMonth + 2) / 5) + 1,
    hour: Math.floor(secondOfDay / 3600),
    minute: Math.floor(secondOfDay / 60) % 60,
    second: secondOfDay % 60,
  }
}

function daysOf(year: number, month: number, day: number): number {
  const marchYear = month <= 2 ? year - 1 : year
  const era = Math.floor(marchYear / 400)
  const yearOfEra = marchYear - era * 400
  const dayOfYear = Math.floor((153 * (month > 2 ? month - 3 : month + 9) + 2) / 5) + day - 1
  const dayOfEra = yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear
  return era * 146_097 + dayOfEra - 719_468
}
