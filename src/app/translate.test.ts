/** What the iSCSI target saw of a login is in the journal: what was proved, by which algorithm, and whether it was the best on offer. */
import { expect, test } from 'vitest'
import { chapAlgorithms, isDowngrade } from '../iscsi/chap.ts'
import { fromHttp, fromIscsi } from './translate.ts'

test.each(
  chapAlgorithms.map(({ name }) => name),
)('a login by CHAP with %s is told with its algorithm, and as a downgrade if it is one', (algorithm) => {
  const session = {
    sessionId: 1,
    initiatorName: 'iqn.2026-01.lab.client:m1',
    targetName: 'iqn.2026-01.lab.boot:m1',
    isid: '400027230001',
    remote: { address: '192.0.2.1', port: 1 },
    label: undefined,
  }
  const downgraded = isDowngrade(algorithm)
  const authentication = { kind: 'chap', user: 'm1', algorithm, mutual: true, downgraded } as const
  const [said] = fromIscsi({ kind: 'sessionOpened', session, authentication }, () => undefined)
  expect(said?.happening).toMatchObject({ kind: 'iscsiLogin', algorithm, authentication: 'mutual' })
  expect('downgraded' in (said?.happening ?? {})).toBe(downgraded)
})

test.each([
  404, 400, 405,
])('of a request that got %i no query is kept, and no more of its path than an event may hold', (status) => {
  const answered = {
    kind: 'answered',
    from: { address: '192.0.2.1', port: 1 },
    secure: false,
    method: 'GET',
    status,
    sentBytes: 1,
    bodyBytes: 1,
    durationMs: 1,
  } as const
  const kept = (path: string): string => JSON.stringify(fromHttp({ ...answered, path })?.happening)
  const long = kept(`/${'a'.repeat(16_000)}`)
  expect(long.length).toBeLessThan(500)
  expect(long).toContain('/aaaa')
  expect(kept('/../x?password=secret')).toMatch(/"\/\.\.\/x"/)
  const failed = {
    kind: 'handlerFailed',
    from: answered.from,
    detail: 'e'.repeat(9_000),
    path: `/${'a'.repeat(9_000)}`,
  } as const
  expect(JSON.stringify(fromHttp(failed)?.happening).length).toBeLessThan(700)
})
