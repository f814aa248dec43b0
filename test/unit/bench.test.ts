/** Goal: `npm run bench -- --check` fails when something got slower, and only then. Method: ratios made up for it. */
import { expect, test } from 'vitest'
import { median, regressionsOf } from '../../bench/frame.ts'

const stored = { reads: { peer: 'tgt', ratio: 2 }, memory: { peer: 'the bound, 60 kB', ratio: 7 } }
const now = (name: string, ratio: number) => ({ name, against: { peer: 'tgt', ratio } })

test('a ratio that fell by over 15 % is a regression, in words; one that fell by less is none', () => {
  expect(regressionsOf([now('reads', 1.69), now('memory', 6)], stored)).toEqual(['reads: 1.69 of tgt, was 2.00 of tgt'])
  expect(regressionsOf([now('reads', 1.71), now('memory', 9)], stored)).toEqual([])
})

test('a question that is new, or whose peers are not installed, is none', () => {
  expect(regressionsOf([now('writes', 0.1), { name: 'reads' }], stored)).toEqual([])
})

test('the median of five is the third, of four the middle of two', () => {
  expect(median([5, 1, 4, 2, 3])).toBe(3)
  expect(median([4, 1, 2, 3])).toBe(2.5)
})
