import { defineConfig, type ViteUserConfig } from 'vitest/config'

// unit: pure, parallel, seconds. interop: strangers' clients against our servers. e2e: real firmware in QEMU, one at a time.
// Debian's iPXE has no HTTPS. SLIPWAY_TEST_IPXE=DIR names builds that have, and these are the tests of them.
const ownIpxe = process.env['SLIPWAY_TEST_IPXE'] === undefined ? [] : ['test/e2e/own-ipxe/*.test.ts']

const config: ViteUserConfig = defineConfig({
  test: {
    projects: [
      { test: { name: 'tidy', include: ['test/tidy.test.ts'] } },
      { test: { name: 'unit', include: ['src/**/*.test.ts', 'test/unit/**/*.test.ts'], testTimeout: 60_000 } },
      {
        test: {
          name: 'interop',
          include: ['test/interop/**/*.test.ts'],
          testTimeout: 300_000,
          hookTimeout: 120_000,
          fileParallelism: false,
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/*.test.ts', ...ownIpxe],
          testTimeout: 600_000,
          hookTimeout: 300_000,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
})

export default config
