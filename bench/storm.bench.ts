/**
 * Monday morning: all machines are switched on at once, and nothing is in memory yet. Each does what a real boot did
 * (storm-boot.txt): ours from clones of one golden image, tgt's from raw copies.
 */
import { type Contender, type Question, unlessInstalled } from './frame.ts'
import type { StormFigures } from './storm-serve.ts'
import { bootBytes, type Stage, slipwayStage, tgtStage } from './storm-stage.ts'

const machineCount = 64

function contender(
  name: string,
  makeStage: () => Stage,
  measure: (stage: Stage) => Promise<number>,
  missing?: Contender['missing'],
): Contender {
  const start: Contender['start'] = () => {
    const stage = makeStage()
    return Promise.resolve({
      measure: () => measure(stage),
      stop: () => {
        stage.close()
        return Promise.resolve()
      },
    })
  }
  return { name, start, ...(missing && { missing }) }
}

/** Figures of storms that were run for their time, for the questions after it. */
const remembered: StormFigures[] = []

/** A storm of ours, or the figures of one that was had already. */
async function figuresOf(stage: Stage, count: number, known?: StormFigures): Promise<StormFigures> {
  if (known !== undefined) return known
  const { figures } = await stage.storm(count)
  if (figures === undefined) throw new Error('only our own server tells figures')
  return figures
}

async function secondsOfAll(stage: Stage): Promise<number> {
  const { seconds, figures } = await stage.storm(machineCount)
  if (figures !== undefined) remembered.push(figures)
  return seconds
}

const slowDiskMs = 2

/** As firmware and loaders read: one request after the other. */
async function secondsAlone(stage: Stage): Promise<number> {
  return (await stage.storm(1, 1)).seconds
}

/** The goal is a number and not another program. */
function bound(name: string, value: number): Contender {
  return {
    name,
    start: () => Promise.resolve({ measure: () => Promise.resolve(value), stop: () => Promise.resolve() }),
  }
}

/** What each further machine takes, beside what is in the cache. */
function kilobytesOfMachine(): (stage: Stage) => Promise<number> {
  let round = 0
  return async (stage) => {
    const taken = ({ rssBytes, cacheUsedBytes }: StormFigures): number => rssBytes - cacheUsedBytes
    const one = taken(await figuresOf(stage, 1))
    return (taken(await figuresOf(stage, machineCount, remembered[round++])) - one) / (machineCount - 1) / 1000
  }
}

function readShare(): (stage: Stage) => Promise<number> {
  let round = 0
  return async (stage) => (await figuresOf(stage, machineCount, remembered[round++])).fetchedBytes / bootBytes
}

const better = 'lower'
const withTrace = (): Stage => slipwayStage(true)

export const questions: readonly Question[] = [
  {
    ...{ name: `storm: ${machineCount} machines, cold start to the last one's boot`, unit: 's', better, goal: 2 },
    ours: contender('slipway, clones', withTrace, secondsOfAll),
    peers: [
      contender(
        'tgt, raw copies',
        () => tgtStage(machineCount),
        secondsOfAll,
        unlessInstalled('tgt', '/usr/sbin/tgtd'),
      ),
    ],
  },
  {
    ...{ name: 'storm: one machine, cold, a disk of 2 ms for each read, its boot trace known', unit: 's', better },
    goal: 1,
    ours: contender('slipway, boot trace', () => slipwayStage(true, slowDiskMs), secondsAlone),
    peers: [contender('slipway, no trace', () => slipwayStage(false, slowDiskMs), secondsAlone)],
  },
  {
    ...{ name: `storm: memory beside the cache for each of ${machineCount} machines`, unit: 'kB', better, goal: 1 },
    ours: contender('slipway', withTrace, kilobytesOfMachine()),
    peers: [bound('the bound, 256 kB', 256)],
  },
  {
    ...{ name: 'storm: bytes read from the golden image over those of one boot', unit: 'boots', better, goal: 0.95 },
    ours: contender('slipway', withTrace, readShare()),
    peers: [bound('one boot', 1)],
  },
]
