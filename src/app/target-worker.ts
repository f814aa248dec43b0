/** The program of one worker: serves what its parent names until that says stop, or is gone. See target-workers.ts. */
import { unreachable } from '../base/assert.ts'
import { OperationError } from '../base/errors.ts'
import { serveParent } from '../host/worker-process.ts'
import { type ServedDisks, serveDisks } from './served-disks.ts'
import { type FromWorker, fromWire, type ToWorker } from './worker-messages.ts'

let served: Promise<ServedDisks | undefined> = Promise.resolve(undefined)

const parent = serveParent(
  (received) => {
    const message = received as ToWorker
    switch (message.kind) {
      case 'serve':
        served = serve(message)
        return
      case 'stop':
        void stop()
        return
      default:
        unreachable(message)
    }
  },
  () => void stop(),
)

async function serve({ options }: Extract<ToWorker, { kind: 'serve' }>): Promise<ServedDisks | undefined> {
  try {
    const disks = await serveDisks(fromWire(options), (event) => say({ kind: 'event', event }))
    say({ kind: 'ready', local: disks.local, sizesBytes: disks.sizesBytes })
    return disks
  } catch (error) {
    if (!(error instanceof OperationError)) throw error
    const { code, message, hint } = error
    say({ kind: 'failed', code, message, hint })
    parent.leave()
    return undefined
  }
}

async function stop(): Promise<void> {
  const disks = await served
  served = Promise.resolve(undefined)
  await disks?.stop()
  parent.leave()
}

function say(message: FromWorker): void {
  parent.send(message)
}
