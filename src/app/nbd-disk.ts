/** A disk on an NBD server: rooms `nbd` (the protocol) and `block` (outliving a connection) plugged together. */
import type { BlockDevice } from '../block/device.ts'
import { openRemoteDevice, type RemoteOptions } from '../block/remote.ts'
import { systemClock } from '../host/clock.ts'
import { connectUnix, systemTcp } from '../host/tcp.ts'
import { connectNbd } from '../nbd/client.ts'
import { formatNbdUri, parseNbdUri } from '../nbd/uri.ts'
import type { Connect } from '../ports/tcp.ts'

export { formatNbdUri, isNbdUri, parseNbdUri } from '../nbd/uri.ts'

export type NbdDiskOptions = Pick<RemoteOptions, 'readOnly' | 'blockBytes' | 'expectedSizeBytes' | 'onState'>

/** @throws {OperationError} usage, connectionRefused, unreachable, serverUnfit, remoteUnfit */
export async function openNbdDisk(uri: string, options: NbdDiskOptions): Promise<BlockDevice> {
  const { place, exportName } = parseNbdUri(uri)
  const label = formatNbdUri({ place, exportName })
  const connect: Connect = (open) =>
    place.kind === 'unix' ? connectUnix(place.path, open) : systemTcp.connect(place, open)
  return openRemoteDevice({
    ...options,
    open: (onLost) => connectNbd({ connect, clock: systemClock, exportName, label }, onLost),
    clock: systemClock,
    label,
  })
}
