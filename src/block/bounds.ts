import { assert } from '../base/assert.ts'
import { OperationError } from '../base/errors.ts'
import type { BlockDevice } from './device.ts'

/** The caller checks bounds before it asks a device; whoever did not is our own mistake, never the peer's. */
export function assertRange(device: BlockDevice, offset: number, bytes: number): void {
  assert(offset >= 0 && bytes >= 0 && offset + bytes <= device.sizeBytes, 'a range lies inside the device')
}

export function readOnlyError(what: string): OperationError {
  return new OperationError(
    'readOnly',
    `${what} is read-only`,
    'Serve it with a clone (the default) or --in-place to allow writes.',
  )
}
