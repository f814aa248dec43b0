/** Streams of events for tests: what a boot looks like from here. */
import type { BootEvent, Happening } from '../events.ts'

export const testMac = '52:54:00:77:00:10'

/** A happening and how many milliseconds after the one before it came. */
export type Timed = readonly [afterMs: number, happening: Happening]

export function stream(timed: readonly Timed[], startMs = 1_000_000): BootEvent[] {
  let atMs = startMs
  return timed.map(([afterMs, happening], index) => {
    atMs += afterMs
    return { ...happening, mac: testMac, address: '192.168.77.100', id: index + 1, atMs }
  })
}

export const discover = (stage: 'firmware' | 'ipxe' | 'system' | 'unknown', firmware = 'BIOS by PXE'): Happening => ({
  kind: 'dhcpDiscover',
  stage,
  firmware,
  uuid: undefined,
  plan: 'gets undionly.kpxe',
})

export const fetched: Happening = { kind: 'tftpDone', file: 'undionly.kpxe', fileBytes: 70_000, durationMs: 300 }

export const served = (script: 'boot' | 'held' | 'signIn' | 'prove' | 'refused'): Happening => ({
  kind: 'scriptServed',
  script,
  bootId: script === 'boot' ? 'k3x9abcd' : undefined,
  image: script === 'boot' ? 'debian-lab' : undefined,
  encrypted: false,
})

export const login = (sessionId: number, stage: 'ipxe' | 'system'): Happening => ({
  kind: 'iscsiLogin',
  sessionId,
  stage,
  initiatorName: 'iqn.2026-01.internal.slipway:machine.525400770010',
  targetName: 'iqn.2026-01.internal.slipway:disk.525400770010',
  isid: stage === 'ipxe' ? '40002723b099' : '00023d000001',
  bootId: 'k3x9abcd',
  authentication: 'mutual',
  algorithm: 'md5',
  reinstated: false,
})

export const closed = (sessionId: number): Happening => ({
  kind: 'sessionClosed',
  sessionId,
  reason: 'disconnected',
  readBytes: 4096,
  writtenBytes: 0,
})

export const firstRead: Happening = { kind: 'firstRead', sessionId: 1 }

/** From a plain PXE ROM to Linux, with the times of a capture (bios-undionly-tiny). */
export const wholeBoot: readonly Timed[] = [
  [0, discover('firmware')],
  [100, { kind: 'dhcpOffer', stage: 'firmware', offeredAddress: '192.168.77.100', file: 'undionly.kpxe' }],
  [2_000, { kind: 'dhcpAck', stage: 'firmware', leasedAddress: '192.168.77.100', file: 'undionly.kpxe' }],
  [50, { kind: 'tftpStarted', file: 'undionly.kpxe', fileBytes: 70_000, blockBytes: 1_456, windowBlocks: 1 }],
  [300, fetched],
  [1_500, discover('ipxe', 'iPXE 1.0.0 on BIOS')],
  [3_000, { kind: 'dhcpAck', stage: 'ipxe', leasedAddress: '192.168.77.100', file: 'http://192.168.77.1/boot/x.ipxe' }],
  [200, { kind: 'credentialsMinted', bootId: 'k3x9abcd' }],
  [1, served('boot')],
  [150, login(1, 'ipxe')],
  [20, firstRead],
  [15_000, discover('system', 'Linux')],
  [3_000, login(2, 'system')],
]
