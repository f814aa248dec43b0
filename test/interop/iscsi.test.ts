/** Goal: libiscsi and QEMU accept our target. Method: their tools against a target on loopback. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Secret } from '../../src/base/secret.ts'
import { createMemoryDevice } from '../../src/block/memory.ts'
import type { ChapAlgorithm } from '../../src/iscsi/policy.ts'
import { run, serve, targetName } from './iscsi-served.ts'

const mebibyte = 1024 * 1024
let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-iscsi-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const initiator = { user: 'labuser', secret: new Secret('labsecret1234') } as const
const target = { user: 'labtarget', secret: new Secret('reversesecret9') } as const

test('iscsi-ls finds the target and its disk, iscsi-inq and iscsi-readcapacity16 read it', async () => {
  const served = await serve({ device: createMemoryDevice(64 * mebibyte) })
  const listed = await run('iscsi-ls', ['-s', `iscsi://127.0.0.1:${served.port}`])
  expect(listed.text).toContain(`Target:${targetName} Portal:127.0.0.1:${served.port},1`)
  expect(listed.text).toContain('DIRECT_ACCESS')
  expect((await run('iscsi-inq', [served.url])).text).toContain('Vendor:SLIPWAY')
  for (const page of ['0x00', '0x80', '0x83', '0xb0', '0xb1', '0xb2']) {
    expect((await run('iscsi-inq', ['-e', '1', '-c', page, served.url])).status).toBe(0)
  }
  expect((await run('iscsi-readcapacity16', [served.url])).text).toContain('67108864')
  await served.close()
})

test('libiscsi logs in with CHAP, one-way and mutual, and not with a wrong secret', async () => {
  const served = await serve({
    device: createMemoryDevice(mebibyte),
    authentication: { kind: 'chap', initiator: [{ ...initiator, target }] },
  })
  const url = (user: string): string => `iscsi://${user}@127.0.0.1:${served.port}/${targetName}/0`
  expect((await run('iscsi-inq', [url('labuser%labsecret1234')])).status).toBe(0)
  const mutual = {
    LIBISCSI_CHAP_TARGET_USERNAME: 'labtarget',
    LIBISCSI_CHAP_TARGET_PASSWORD: 'reversesecret9',
  }
  expect((await run('iscsi-inq', [url('labuser%labsecret1234')], { environment: mutual })).status).toBe(0)
  const algorithms = served.events.flatMap((event): (readonly [ChapAlgorithm, boolean])[] =>
    event.kind === 'sessionOpened' && event.authentication.kind === 'chap'
      ? [[event.authentication.algorithm, event.authentication.mutual]]
      : [],
  )
  expect(algorithms.map(([, isMutual]) => isMutual)).toEqual([false, true])
  expect((await run('iscsi-inq', [url('labuser%labsecret1235')])).status).not.toBe(0)
  expect((await run('iscsi-inq', [served.url])).status).not.toBe(0)
  expect(served.events.flatMap((event) => (event.kind === 'loginFailed' ? [event.reason] : []))).toEqual([
    'wrongCredentials',
    'chapRequired',
  ])
  await served.close()
})

test('qemu-img writes an image to the target and finds it there', async () => {
  const served = await serve({ device: createMemoryDevice(64 * mebibyte) })
  const image = join(folder, 'image.raw')
  writeFileSync(image, randomBytes(64 * mebibyte))
  const converted = await run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', image, served.url])
  expect(converted).toEqual({ status: 0, text: '' })
  const compared = await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, served.url])
  expect(compared.text).toContain('Images are identical')
  const bench = (...args: string[]) => run('qemu-img', ['bench', '-f', 'raw', ...args, served.url])
  for (const [bytes, depth] of [
    ['4096', '32'],
    ['262144', '8'],
    ['1048576', '4'],
  ] as const) {
    expect((await bench('-c', '200', '-d', depth, '-s', bytes)).status).toBe(0)
    expect((await bench('-w', '-c', '200', '-d', depth, '-s', bytes, '--flush-interval', '50')).status).toBe(0)
  }
  expect(served.faults).toEqual([])
  expect(served.events.filter(({ kind }) => kind === 'rejected')).toEqual([])
  await served.close()
})
