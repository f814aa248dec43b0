/** IMF-fixdate, the one date format that is written: RFC 9110 §5.6.7. `Sun, 06 Nov 1994 08:49:37 GMT`. */

const dayNames = ['Thu', 'Fri', 'Sat', 'Sun', 'Mon', 'Tue', 'Wed']
const monthNames = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']
const dayMs = 86_400_000

/** @param wallMs milliseconds since 1970-01-01 UTC */
export function httpDate(wallMs: number): string {
  const days = Math.floor(wallMs / dayMs)
  const secondOfDay = Math.floor((wallMs - days * dayMs) / 1_000)
  const { year, month, day } = civil(days)
  const two = (value: number): string => String(value).padStart(2, '0')
  const time = [secondOfDay / 3_600, (secondOfDay / 60) % 60, secondOfDay % 60].map((part) => two(Math.floor(part)))
  return `${dayNames[days % 7]}, ${two(day)} ${monthNames[month]} ${year} ${time.join(':')} GMT`
}

/** The Gregorian date of a day counted from 1970-01-01; `month` counts from 0. */
function civil(days: number): { readonly year: number; readonly month: number; readonly day: number } {
  // Counted from 0000-03-01 leap days come last in a year, and in a cycle of 400 years of 146,097 days.
  const fromMarch = days + 719_468
  const cycle = Math.floor(fromMarch / 146_097)
  const dayOfCycle = fromMarch - cycle * 146_097
  const yearOfCycle = Math.floor(
    (dayOfCycle - Math.floor(dayOfCycle / 1_460) + Math.floor(dayOfCycle / 36_524) - Math.floor(dayOfCycle / 146_096)) /
      365,
  )
  const dayOfYear = dayOfCycle - (365 * yearOfCycle + Math.floor(yearOfCycle / 4) - Math.floor(yearOfCycle / 100))
  const monthFromMarch = Math.floor((5 * dayOfYear + 2) / 153)
  const month = (monthFromMarch + 2) % 12
  const day = dayOfYear - Math.floor((153 * monthFromMarch + 2) / 5) + 1
  return { year: yearOfCycle + cycle * 400 + (month < 2 ? 1 : 0), month, day }
}
