import fc from 'fast-check'
import { expect, test } from 'vitest'
import { loaderUrl, parsePath, parseReport, parseScriptQuery, reportUrl, scriptUrl } from './addresses.ts'

const mac = '52:54:00:77:00:10'
const server = { secure: false, host: '192.168.77.1', port: 80 }

const pathOf = (url: string): string => new URL(url).pathname
const queryOf = (url: string): Map<string, string> => new Map(new URL(url).searchParams)

test('addresses are made and understood alike', () => {
  expect(scriptUrl(server, mac)).toBe(
    'http://192.168.77.1/boot/52-54-00-77-00-10.ipxe?uuid=${uuid}&serial=${serial:uristring}',
  )
  expect(scriptUrl({ secure: true, host: 'boot.lab', port: 8443 }, mac, { poll: 3 })).toBe(
    'https://boot.lab:8443/boot/52-54-00-77-00-10.ipxe?uuid=${uuid}&serial=${serial:uristring}&poll=3',
  )
  expect(parsePath(pathOf(scriptUrl(server, mac)))).toEqual({ kind: 'script', mac })
  expect(parsePath(pathOf(loaderUrl(server, 'snponly.efi')))).toEqual({ kind: 'loader', file: 'snponly.efi' })
  expect(parsePath(pathOf(reportUrl(server, mac, 'abc')))).toEqual({ kind: 'report', mac })
  expect(parseReport(queryOf(`${reportUrl(server, mac, 'abc')}&step=gave-up&error=0f0a6039`))).toEqual({
    bootId: 'abc',
    step: 'gave-up',
    error: '0f0a6039',
  })
})

test('a machine whose hardware is no Ethernet has addresses too', () => {
  const odd = '20-80-00-02-08-fe-80-00-00-00-00-00-00'
  expect(parsePath(pathOf(scriptUrl(server, odd)))).toEqual({ kind: 'script', mac: odd })
})

test.for([
  '',
  '/',
  '/boot',
  '/boot/',
  '/boot/x.ipxe',
  '/boot/52-54-00-77-00-10',
  '/boot/52-54-00-77-00-10.ipxe/x',
  '/loader/',
  '/etc/passwd',
])('%j is none of ours', (path) => {
  expect(parsePath(path)).toBeUndefined()
})

test('counts are counts, whatever is sent', () => {
  const counts = (poll: string): number => parseScriptQuery(new Map([['poll', poll]])).pollCount
  expect(['3', '-1', '1e9', '9999999', 'NaN', '', '00000000000'].map(counts)).toEqual([3, 0, 0, 1_000_000, 0, 0, 0])
  expect(parseScriptQuery(new Map([['refetch', '99']])).refetchCount).toBe(3)
  expect(parseScriptQuery(new Map([['uuid', '']])).uuid).toBeUndefined()
})

test('a report is words of ours or nothing', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (step, error) => {
      const report = parseReport(
        new Map([
          ['step', step],
          ['error', error],
        ]),
      )
      if (report !== undefined) expect(`${report.step}${report.error ?? ''}`).toMatch(/^[A-Za-z0-9-]+$/)
    }),
  )
})
