/**
 * Task management: RFC 7143 §11.5, §11.6. The device server is told first (it queues the unit attentions of those who did not
 * ask), then tasks end, and the answer comes when none of them can still do anything.
 *
 * It does not wait for Data-Out that open R2Ts still ask for, as §4.2.3.3 has it: open-iscsi (node.session.iscsi.FastAbort, on by
 * default) sends none after its request, and would wait for our answer until it drops the session. What comes late is ignored.
 */
import { decodeLun } from '../scsi/report-luns.ts'
import type { DeviceServer, Nexus } from '../scsi/task.ts'
import { taskManagementFunction, taskManagementResponse } from './codes.ts'
import type { CommandWindow } from './command-window.ts'
import type { TaskManagementRequest } from './initiator-pdu.ts'
import type { SessionEnd } from './policy.ts'
import type { ScsiTask } from './scsi-task.ts'
import { isBefore } from './serial-number.ts'
import { lunZero, noData, type SessionOutput } from './session-output.ts'

/** A session, as far as its tasks are managed. */
export interface ManagedSession {
  readonly nexus: Nexus
  readonly deviceServer: DeviceServer | undefined
  readonly output: SessionOutput
  readonly window: CommandWindow
  task(initiatorTaskTag: number): ScsiTask | undefined
  hasTask(choose: (task: ScsiTask) => boolean): boolean
  /** Ends the tasks that `choose` names in silence; returns those which execute and will end later. */
  abort(choose: (task: ScsiTask) => boolean): readonly ScsiTask[]
  /** Sessions at the same logical units, this one among them. */
  sharing(): readonly ManagedSession[]
  close(end: SessionEnd): void
}

const requestNames = {
  [taskManagementFunction.abortTaskSet]: 'abortTaskSet',
  [taskManagementFunction.clearTaskSet]: 'clearTaskSet',
  [taskManagementFunction.logicalUnitReset]: 'logicalUnitReset',
} as const

export function manage(session: ManagedSession, pdu: TaskManagementRequest): void {
  const { deviceServer, output } = session
  const answer = (response: number): void =>
    output.send(
      {
        kind: 'taskManagementResponse',
        ...output.nextNumbers(),
        response,
        initiatorTaskTag: pdu.initiatorTaskTag,
      },
      noData,
    )
  if (deviceServer === undefined) {
    answer(taskManagementResponse.rejected)
    return
  }
  const complete = (): void => answer(taskManagementResponse.complete)
  const sameUnit = (task: ScsiTask): boolean => equalLuns(task.lun, pdu.lun)
  switch (pdu.function) {
    case taskManagementFunction.abortTask:
      abortTask(session, deviceServer, pdu, answer)
      return
    case taskManagementFunction.abortTaskSet:
    case taskManagementFunction.clearTaskSet:
    case taskManagementFunction.logicalUnitReset: {
      const request = requestNames[pdu.function]
      const sessions = request === 'abortTaskSet' ? [session] : session.sharing()
      const losers = sessions.filter((one) => one.hasTask(sameUnit)).map(({ nexus }) => nexus)
      if (deviceServer.manage(session.nexus, pdu.lun, request, losers) === 'lunMissing') {
        answer(taskManagementResponse.lunMissing)
        return
      }
      // The answer waits for commands under way: a write that lands after it would undo what comes next.
      whenAllEnded(
        sessions.flatMap((one) => one.abort(sameUnit)),
        complete,
      )
      return
    }
    case taskManagementFunction.targetWarmReset:
    case taskManagementFunction.targetColdReset: {
      deviceServer.manage(session.nexus, lunZero, 'targetReset')
      const sessions = session.sharing()
      const executing = sessions.flatMap((one) => one.abort(() => true))
      whenAllEnded(executing, () => {
        complete()
        if (pdu.function === taskManagementFunction.targetWarmReset) return
        // §11.5.1: a cold reset is like a power cycle; all connections go.
        for (const one of sessions) one.close('targetReset')
      })
      return
    }
    case taskManagementFunction.taskReassign:
      answer(taskManagementResponse.reassignNotSupported)
      return
    default:
      answer(taskManagementResponse.notSupported)
  }
}

function abortTask(
  session: ManagedSession,
  deviceServer: DeviceServer,
  pdu: TaskManagementRequest,
  answer: (response: number) => void,
): void {
  const task = session.task(pdu.referencedTaskTag)
  if (task !== undefined && equalLuns(task.lun, pdu.lun)) {
    deviceServer.manage(session.nexus, pdu.lun, 'abortTask')
    whenAllEnded(
      session.abort((one) => one === task),
      () => answer(taskManagementResponse.complete),
    )
    return
  }
  // §11.5.1: a command that has not come yet, but was sent before this request, counts as come and aborted.
  const number = pdu.referencedCommandNumber
  const skipped = isBefore(number, pdu.commandNumber) && session.window.skip(number)
  answer(skipped ? taskManagementResponse.complete : taskManagementResponse.taskMissing)
}

function whenAllEnded(tasks: readonly ScsiTask[], then: () => void): void {
  let left = tasks.length
  if (left === 0) then()
  for (const task of tasks) {
    const before = task.whenEnded
    task.whenEnded = () => {
      before?.()
      left--
      if (left === 0) then()
    }
  }
}

/** One unit has several names: SAM-5 §4.7 knows peripheral and flat addressing. What names no unit has to be the same bytes. */
function equalLuns(a: Uint8Array, b: Uint8Array): boolean {
  const unit = decodeLun(a)
  return unit === undefined ? a.every((byte, i) => byte === b[i]) : unit === decodeLun(b)
}
