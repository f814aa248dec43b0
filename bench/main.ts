/**
 * npm run bench                          every question
 * npm run bench -- tftp http --runs 9    the questions of bench/tftp.bench.ts and bench/http.bench.ts, nine rounds
 *   --only "32 in flight"    of these, the questions with this in their name
 *   --json    one JSON document on standard output
 *   --check   fails when a ratio is more than 15 % below the one in bench/ratios.json
 *   --store   writes the ratios of this run to bench/ratios.json
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import {
  type Answer,
  answer,
  comeFirst,
  enterOwnNetwork,
  moveToClientCore,
  type Question,
  regressionsOf,
  type StoredRatios,
} from './frame.ts'

const ratiosFile = join(import.meta.dirname, 'ratios.json')
const suffix = '.bench.ts'

const { values: options, positionals: chosen } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
    store: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    runs: { type: 'string', default: '5' },
  },
})
const rounds = Number(options.runs)
const groups = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith(suffix))
  .map((file) => file.slice(0, -suffix.length))
const unknown = chosen.filter((name) => !groups.includes(name))
if (unknown.length > 0) refuse(`There is no bench called ${unknown.join(', ')}.`, `There are: ${groups.join(', ')}.`)
if (!Number.isInteger(rounds) || rounds < 1) refuse(`--runs ${options.runs} is no count.`, 'Say a number from 1 on.')

enterOwnNetwork()
moveToClientCore()
comeFirst()
const answers: Answer[] = []
for (const group of groups.filter((name) => chosen.length === 0 || chosen.includes(name))) {
  const { questions } = (await import(`./${group}${suffix}`)) as { readonly questions: readonly Question[] }
  for (const question of questions.filter(({ name }) => name.includes(options.only))) {
    if (!options.json) console.log(`\n${question.name} (${question.unit}, ${question.better} is better)`)
    const found = await answer(question, rounds)
    answers.push(found)
    if (!options.json) print(found)
  }
}

const stored = readStored()
const regressions = regressionsOf(answers, stored)
if (options.json) console.log(JSON.stringify({ rounds, answers, regressions }, undefined, 2))
if (options.store) store()
if (options.check) {
  for (const line of regressions) console.error(`slower than before: ${line}`)
  if (!options.json && regressions.length === 0)
    console.log('\nNothing got slower than bench/ratios.json by over 15 %.')
}
process.exit(options.check && regressions.length > 0 ? 1 : 0)

function print({ figures, absent, against, goal }: Answer): void {
  const width = Math.max(...figures.map(({ contender }) => contender.length), 12)
  for (const { contender, median, runs, note } of figures) {
    const spread = `${format(Math.min(...runs))} .. ${format(Math.max(...runs))}`
    console.log(`  ${contender.padEnd(width)} ${format(median).padStart(10)}   (${spread})${note ? `, ${note}` : ''}`)
  }
  for (const { contender, debianPackage } of absent) {
    console.log(`  ${contender.padEnd(width)} not installed: apt-get install ${debianPackage}`)
  }
  if (against === undefined) console.log('  no peer to compare with')
  else {
    const verdict = against.ratio >= goal ? 'reached' : 'MISSED'
    console.log(`  ratio to ${against.peer}: ${against.ratio.toFixed(2)} (goal ${goal}: ${verdict})`)
  }
}

function format(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3)
}

function readStored(): StoredRatios {
  try {
    return JSON.parse(readFileSync(ratiosFile, 'utf8')) as StoredRatios
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {}
    throw error
  }
}

function store(): void {
  const measured = answers.flatMap(({ name, against }) => {
    return against === undefined ? [] : [[name, { peer: against.peer, ratio: Number(against.ratio.toFixed(3)) }]]
  })
  const all: StoredRatios = { ...stored, ...Object.fromEntries(measured) }
  const sorted = Object.fromEntries(Object.entries(all).toSorted(([a], [b]) => (a < b ? -1 : 1)))
  writeFileSync(ratiosFile, `${JSON.stringify(sorted, undefined, 2)}\n`)
}

function refuse(what: string, next: string): never {
  console.error(`bench: ${what}\n  ${next}`)
  process.exit(2)
}
