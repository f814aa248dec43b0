// Plain JavaScript that any Node understands, to say what is missing instead of failing on the first line of TypeScript.
import module from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')

if (Number(process.versions.node.split('.')[0]) >= 24) {
  // The sources are TypeScript. Kept compiled, they start in a third of the time and without the compiler in memory. Where
  // the folder may not be written (a service), systemd names one that may.
  const cache = process.env.CACHE_DIRECTORY ?? join(root, 'node_modules', '.cache')
  module.enableCompileCache(join(cache.split(':')[0], 'slipway-compiled'))
  await import('../src/cli/main.ts')
} else {
  console.error(
    `slipway needs Node 24 or newer; this is ${process.version}.\n  Run \`npm ci\` in ${root}: it brings one.`,
  )
  process.exit(1)
}
