/**
 * The few system calls that Node has no function for, through koffi: a call costs about half a microsecond.
 *
 *   preadv2(RWF_NOWAIT)  read what is in the page cache without ever waiting for the disk
 *   lseek(SEEK_HOLE)     where a sparse file has space
 *   SO_BINDTODEVICE      hear one interface only
 *   recv                 read a busy socket without an object for each packet
 *   sendto, writev       send now, without a request object for each packet
 *   SIOCSARP             tell the kernel a client's link address before the client has an address
 *
 * Everything here is Linux. Where the library cannot be loaded `native` is undefined, and callers take Node's slower way.
 */
import koffi from 'koffi'

export interface Native {
  preadv2(fd: number, iov: Uint8Array, count: number, offset: number, flags: number): number
  pwrite(fd: number, bytes: Uint8Array, byteCount: number, offset: number): number
  fallocate(fd: number, mode: number, offset: number, bytes: number): number
  lseek(fd: number, offset: number, whence: number): number
  sendto(fd: number, bytes: Uint8Array, byteCount: number, flags: number, to: Uint8Array, toBytes: number): number
  send(fd: number, bytes: Uint8Array, byteCount: number, flags: number): number
  recv(fd: number, target: Uint8Array, byteCount: number, flags: number): number
  writev(fd: number, iov: Uint8Array, count: number): number
  socket(domain: number, type: number, protocol: number): number
  connect(fd: number, address: Uint8Array, addressBytes: number): number
  bind(fd: number, address: Uint8Array, addressBytes: number): number
  setsockopt(fd: number, level: number, name: number, value: Uint8Array, valueBytes: number): number
  ioctl(fd: number, request: number, argument: Uint8Array): number
  getsockname(fd: number, address: Uint8Array, addressBytes: Uint8Array): number
  getsockopt(fd: number, level: number, name: number, value: Uint8Array, valueBytes: Uint8Array): number
  recvfrom(
    fd: number,
    bytes: Uint8Array,
    byteCount: number,
    flags: number,
    from: Uint8Array,
    fromBytes: Uint8Array,
  ): number
  flock(fd: number, operation: number): number
  /** 0 when there is no such interface. */
  ifNametoindex(name: string): number
  close(fd: number): number
  /** errno of the last call that failed. */
  errno(): number
  /** The address of the first byte; holds for as long as `bytes` is referenced. */
  addressOf(bytes: Uint8Array): bigint
}

export const native: Native | undefined = process.platform === 'linux' ? load() : undefined

function load(): Native | undefined {
  let libc: ReturnType<typeof koffi.load>
  try {
    libc = koffi.load('libc.so.6')
  } catch {
    return undefined // musl and others: Node's own functions do it, more slowly.
  }
  return {
    preadv2: libc.func('int64_t preadv2(int fd, void *iov, int count, int64_t offset, int flags)'),
    pwrite: libc.func('int64_t pwrite(int fd, void *bytes, uint64_t byteCount, int64_t offset)'),
    fallocate: libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t bytes)'),
    lseek: libc.func('int64_t lseek(int fd, int64_t offset, int whence)'),
    sendto: libc.func('int64_t sendto(int fd, void *bytes, uint64_t byteCount, int flags, void *to, uint32_t toBytes)'),
    send: libc.func('int64_t send(int fd, void *bytes, uint64_t byteCount, int flags)'),
    recv: libc.func('int64_t recv(int fd, void *target, uint64_t byteCount, int flags)'),
    writev: libc.func('int64_t writev(int fd, void *iov, int count)'),
    socket: libc.func('int socket(int domain, int type, int protocol)'),
    connect: libc.func('int connect(int fd, void *address, uint32_t addressBytes)'),
    bind: libc.func('int bind(int fd, void *address, uint32_t addressBytes)'),
    setsockopt: libc.func('int setsockopt(int fd, int level, int name, void *value, uint32_t valueBytes)'),
    ioctl: libc.func('int ioctl(int fd, uint64_t request, void *argument)'),
    getsockname: libc.func('int getsockname(int fd, void *address, void *addressBytes)'),
    getsockopt: libc.func('int getsockopt(int fd, int level, int name, void *value, void *valueBytes)'),
    recvfrom: libc.func(
      'int64_t recvfrom(int fd, void *bytes, uint64_t byteCount, int flags, void *from, void *fromBytes)',
    ),
    ifNametoindex: libc.func('unsigned int if_nametoindex(const char *name)'),
    flock: libc.func('int flock(int fd, int operation)'),
    close: libc.func('int close(int fd)'),
    errno: () => koffi.errno(),
    addressOf: (bytes) => koffi.address(bytes),
  } as Native
}

/** LOCK_EX | LOCK_NB. */
const lockNow = 2 | 4

/** False: somebody else has it, or it cannot be (`errno` tells). Without native calls nothing is locked. */
export function tryLock(fd: number): boolean {
  return native === undefined || native.flock(fd, lockNow) === 0
}

/** Numbers of the names: 'EAGAIN' -> 11. */
export const errnoOf: Readonly<Record<string, number>> = koffi.os.errno

export function nameOfErrno(number: number): string {
  return Object.keys(errnoOf).find((name) => errnoOf[name] === number) ?? `errno ${number}`
}

/** struct sockaddr_in: family (host order) 2 | port 2 | address 4 | zero 8. */
export function writeSockaddr(target: Uint8Array, address: number, port: number): void {
  target[0] = 2 // AF_INET, little-endian; every Linux that Node runs on is.
  target[1] = 0
  target[2] = port >>> 8
  target[3] = port & 0xff
  target[4] = address >>> 24
  target[5] = (address >>> 16) & 0xff
  target[6] = (address >>> 8) & 0xff
  target[7] = address & 0xff
}
