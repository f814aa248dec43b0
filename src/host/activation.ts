/**
 * Sockets that systemd opened for us (sd_listen_fds(3)): descriptors 3, 4, ... as many as LISTEN_FDS says, meant for us
 * if LISTEN_PID is our process. They are recognised by what they are bound to, so their order and names do not matter.
 */
import { native } from './native.ts'

const firstDescriptor = 3
const solSocket = 1
const soType = 3
const streamType = 1
/** More than any unit of ours has; a wrong LISTEN_FDS must not make us look at every number there is. */
const descriptorsMax = 32

let inherited: Map<string, number> | undefined

/** The descriptor of a socket bound to this port, once. Undefined when there is none: open one. */
export function takeInheritedSocket(protocol: 'udp' | 'tcp', port: number): number | undefined {
  inherited ??= listInherited()
  const key = `${protocol}:${port}`
  const fd = inherited.get(key)
  inherited.delete(key)
  return fd
}

function listInherited(): Map<string, number> {
  const sockets = new Map<string, number>()
  if (native === undefined || Number(process.env['LISTEN_PID']) !== process.pid) return sockets
  const count = Math.min(Number(process.env['LISTEN_FDS']) || 0, descriptorsMax)
  const address = new Uint8Array(28)
  const type = new Uint8Array(4)
  for (let fd = firstDescriptor; fd < firstDescriptor + count; fd++) {
    const known = native.getsockname(fd, address, Uint8Array.of(address.byteLength, 0, 0, 0)) === 0
    if (!known || native.getsockopt(fd, solSocket, soType, type, Uint8Array.of(4, 0, 0, 0)) !== 0) continue
    const port = new DataView(address.buffer).getUint16(2)
    sockets.set(`${type[0] === streamType ? 'tcp' : 'udp'}:${port}`, fd)
  }
  return sockets
}
