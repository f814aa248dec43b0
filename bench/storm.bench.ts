/**
 * Monday morning: all machines are switched on at once, and nothing is in memory yet. Each does what a real boot did
 * (storm-boot.txt): ours from clones of one golden image, tgt's from raw copies.
 */
import { type Contender, type Question, unlessInstalled } from './frame.ts'
import { bootBytes, type Stage, type StormOutcome, slipwayStage, tgtStage } from './storm-stage.ts'

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

const seconds =
  (count: number) =>
  async (stage: Stage): Promise<number> =>
    (await stage.storm(count)).seconds

/** The goal is a number and not another program. */
function bound(name: string, value: number): Contender {
  return {
    name,
    start: () => Promise.resolve({ measure: () => Promise.resolve(value), stop: () => Promise.resolve() }),
  }
}

function figuresOf({ figures }: StormOutcome): NonNullable<StormOutcome['figures']> {
  if (figures === undefined) throw new Error('only our own server tells figures')
  return figures
}

/** What each further machine takes, beside what is in the cache. */
async function kilobytesOfMachine(stage: Stage): Promise<number> {
  const taken = async (count: number): Promise<number> => {
    const { rssBytes, cacheUsedBytes } = figuresOf(await stage.storm(count))
    return rssBytes - cacheUsedBytes
  }
  const one = await taken(1)
  return ((await taken(machineCount)) - one) / (machineCount - 1) / 1000
}

async function readShare(stage: Stage): Promise<number> {
  return figuresOf(await stage.storm(machineCount)).fetchedBytes / bootBytes
}

const better = 'lower'
const withTrace = (): Stage => slipwayStage(true)

export const questions: readonly Question[] = [
  {
    ...{ name: `storm: ${machineCount} machines, cold start to the last one's boot`, unit: 's', better, goal: 2 },
    ours: contender('slipway, clones', withTrace, seconds(machineCount)),
    peers: [
      contender(
        'tgt, raw copies',
        () => tgtStage(machineCount),
        seconds(machineCount),
        unlessInstalled('tgt', '/usr/sbin/tgtd'),
      ),
    ],
  },
  {
    ...{ name: 'storm: one machine alone, cold, what an earlier boot read known', unit: 's', better, goal: 1 },
    ours: contender('slipway, boot trace', withTrace, seconds(1)),
    peers: [contender('slipway, none', () => slipwayStage(false), seconds(1))],
  },
  {
    ...{ name: `storm: memory beside the cache for each of ${machineCount} machines`, unit: 'kB', better, goal: 1 },
    ours: contender('slipway', withTrace, kilobytesOfMachine),
    peers: [bound('the bound, 256 kB', 256)],
  },
  {
    ...{ name: 'storm: bytes read from the golden image over those of one boot', unit: 'boots', better, goal: 0.95 },
    ours: contender('slipway', withTrace, readShare),
    peers: [bound('one boot', 1)],
  },
]
