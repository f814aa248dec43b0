/**
 * The storm from 1 to 256 machines, as a picture: `npm run bench:storm-curve`. Measures, writes docs/pictures/storm.json, and draws
 * docs/pictures/storm.svg from it; `-- --draw` only draws. tgt goes as far as its raw copies are bearable.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { comeFirst, enterOwnNetwork, median, moveToClientCore } from './frame.ts'
import { bootBytes, type Stage, slipwayStage, tgtStage } from './storm-stage.ts'

type Curve = { readonly server: string; readonly points: { readonly machines: number; readonly seconds: number }[] }
type StormData = { readonly bootBytes: number; readonly rounds: number; readonly curves: readonly Curve[] }

const folder = join(import.meta.dirname, '../docs/pictures')
const dataFile = join(folder, 'storm.json')
const { values: options } = parseArgs({
  options: {
    draw: { type: 'boolean', default: false },
    runs: { type: 'string', default: '3' },
    machines: { type: 'string', default: '256' },
    'tgt-machines': { type: 'string', default: '64' },
  },
})

if (!options.draw) {
  enterOwnNetwork()
  moveToClientCore()
  comeFirst()
  const rounds = Number(options.runs)
  const most = { slipway: Number(options.machines), tgt: Number(options['tgt-machines']) }
  const data: StormData = {
    bootBytes,
    rounds,
    curves: [
      await measure('Slipway, clones of one image', slipwayStage(true), most.slipway, rounds),
      await measure('tgt, raw copies', tgtStage(most.tgt), most.tgt, rounds),
    ],
  }
  mkdirSync(folder, { recursive: true })
  writeFileSync(dataFile, `${JSON.stringify(data, undefined, 2)}\n`)
}
writeFileSync(join(folder, 'storm.svg'), draw(JSON.parse(readFileSync(dataFile, 'utf8')) as StormData))

async function measure(server: string, stage: Stage, most: number, rounds: number): Promise<Curve> {
  const points: Curve['points'] = []
  try {
    for (let machines = 1; machines <= most; machines *= 2) {
      const times: number[] = []
      for (let round = 0; round < rounds; round++) times.push((await stage.storm(machines)).seconds)
      const seconds = Number(median(times).toPrecision(4))
      console.log(`${server}: ${machines} machines in ${seconds} s`)
      points.push({ machines, seconds })
    }
  } finally {
    stage.close()
  }
  return { server, points }
}

/** Both axes are logarithmic: twice the machines in twice the time is a line of one slope. */
function draw({ bootBytes: bytes, curves, rounds }: StormData): string {
  const box = { left: 64, top: 40, width: 560, height: 320 }
  const all = curves.flatMap(({ points }) => points)
  const machinesMax = Math.max(...all.map(({ machines }) => machines))
  const decadeFirst = Math.floor(Math.log10(Math.min(...all.map(({ seconds }) => seconds))))
  const decadeLast = Math.ceil(Math.log10(Math.max(...all.map(({ seconds }) => seconds))))
  const x = (machines: number): number => box.left + (Math.log2(machines) / Math.log2(machinesMax)) * box.width
  const y = (seconds: number): number =>
    box.top + box.height * (1 - (Math.log10(seconds) - decadeFirst) / (decadeLast - decadeFirst))
  const colours = ['#1f6feb', '#b3541e']
  const right = box.left + box.width
  const bottom = box.top + box.height
  const lines: string[] = []
  const text = (at: { x: number; y: number; anchor: string }, words: string): void => {
    lines.push(`<text x="${at.x.toFixed(1)}" y="${at.y.toFixed(1)}" text-anchor="${at.anchor}">${words}</text>`)
  }
  for (let machines = 1; machines <= machinesMax; machines *= 2) {
    lines.push(`<path class="grid" d="M${x(machines).toFixed(1)} ${box.top}V${bottom}"/>`)
    text({ x: x(machines), y: bottom + 18, anchor: 'middle' }, String(machines))
  }
  for (let decade = decadeFirst; decade <= decadeLast; decade++) {
    const seconds = 10 ** decade
    lines.push(`<path class="grid" d="M${box.left} ${y(seconds).toFixed(1)}H${right}"/>`)
    text({ x: box.left - 8, y: y(seconds) + 4, anchor: 'end' }, `${seconds} s`)
  }
  curves.forEach(({ server, points }, index) => {
    const colour = colours[index % colours.length]
    const path = points.map((point) => `${x(point.machines).toFixed(1)},${y(point.seconds).toFixed(1)}`)
    lines.push(`<polyline fill="none" stroke="${colour}" stroke-width="2" points="${path.join(' ')}"/>`)
    for (const place of path) {
      const [cx, cy] = place.split(',')
      lines.push(`<circle cx="${cx}" cy="${cy}" r="3" fill="${colour}"/>`)
    }
    const last = points.at(-1)
    lines.push(`<rect x="${box.left + 12}" y="${box.top + 10 + index * 20}" width="14" height="4" fill="${colour}"/>`)
    const words =
      last === undefined ? server : `${server}: ${last.machines} machines in ${last.seconds.toPrecision(3)} s`
    text({ x: box.left + 32, y: box.top + 16 + index * 20, anchor: 'start' }, words)
  })
  text(
    { x: box.left, y: 24, anchor: 'start' },
    `Machines switched on at once, cold, to the last one's boot (${(bytes / 1e6).toFixed(0)} MB each; medians of ${rounds})`,
  )
  text({ x: box.left + box.width / 2, y: bottom + 38, anchor: 'middle' }, 'machines')
  const style = 'text{font:12px sans-serif;fill:#333}.grid{stroke:#ddd;fill:none}'
  const size = `viewBox="0 0 ${right + 24} ${bottom + 52}" width="${right + 24}" height="${bottom + 52}"`
  const title = "<title>Seconds to the last machine's boot, by number of machines</title>"
  return `<svg xmlns="http://www.w3.org/2000/svg" role="img" ${size}>\n${title}\n<style>${style}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n${lines.join('\n')}\n</svg>\n`
}
