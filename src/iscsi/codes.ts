/** Numbers that RFC 7143 §11 gives names to: what a PDU is, why it was refused, how a request went. */

export const opcode = {
  nopOut: 0x00,
  scsiCommand: 0x01,
  taskManagement: 0x02,
  login: 0x03,
  text: 0x04,
  dataOut: 0x05,
  logout: 0x06,
  snack: 0x10,
  nopIn: 0x20,
  scsiResponse: 0x21,
  taskManagementResponse: 0x22,
  loginResponse: 0x23,
  textResponse: 0x24,
  dataIn: 0x25,
  logoutResponse: 0x26,
  readyToTransfer: 0x31,
  asyncMessage: 0x32,
  reject: 0x3f,
} as const

/** §11.3.1.1 ATTR, in this order. */
export const taskAttributes = ['untagged', 'simple', 'ordered', 'headOfQueue', 'aca'] as const

export type TaskAttributeName = (typeof taskAttributes)[number]

/** §11.5.1. */
export const taskManagementFunction = {
  abortTask: 1,
  abortTaskSet: 2,
  clearAca: 3,
  clearTaskSet: 4,
  logicalUnitReset: 5,
  targetWarmReset: 6,
  targetColdReset: 7,
  taskReassign: 8,
} as const

/** §11.6.1. */
export const taskManagementResponse = {
  complete: 0,
  taskMissing: 1,
  lunMissing: 2,
  taskStillAllegiant: 3,
  reassignNotSupported: 4,
  notSupported: 5,
  authorizationFailed: 6,
  rejected: 255,
} as const

/** §11.14.1. */
export const logoutReason = { closeSession: 0, closeConnection: 1, removeForRecovery: 2 } as const

/** §11.15.1. */
export const logoutResponse = { success: 0, connectionMissing: 1, recoveryNotSupported: 2, cleanUpFailed: 3 } as const

/** §11.17.1. */
export const rejectReason = {
  dataDigestError: 0x02,
  snackRejected: 0x03,
  protocolError: 0x04,
  commandNotSupported: 0x05,
  tooManyImmediateCommands: 0x06,
  taskInProgress: 0x07,
  invalidDataAck: 0x08,
  invalidPduField: 0x09,
  longOperationRejected: 0x0a,
  waitingForLogout: 0x0c,
} as const

export type RejectReason = (typeof rejectReason)[keyof typeof rejectReason]

/** §11.9.1. */
export const asyncEvent = {
  scsi: 0,
  logoutRequested: 1,
  connectionDropping: 2,
  sessionDropping: 3,
  negotiationRequested: 4,
} as const

/** §11.13.5, class in the upper byte. */
export const loginStatus = {
  success: 0x0000,
  movedTemporarily: 0x0101,
  movedPermanently: 0x0102,
  initiatorError: 0x0200,
  authenticationFailed: 0x0201,
  forbidden: 0x0202,
  targetNotFound: 0x0203,
  targetRemoved: 0x0204,
  versionNotSupported: 0x0205,
  tooManyConnections: 0x0206,
  parameterMissing: 0x0207,
  cannotJoinSession: 0x0208,
  sessionTypeNotSupported: 0x0209,
  sessionMissing: 0x020a,
  invalidDuringLogin: 0x020b,
  targetError: 0x0300,
  serviceUnavailable: 0x0301,
  outOfResources: 0x0302,
} as const

export type LoginStatus = (typeof loginStatus)[keyof typeof loginStatus]

/** §11.12.3. Number 2 is not used. */
export const stage = { security: 0, operational: 1, fullFeature: 3 } as const

export type Stage = (typeof stage)[keyof typeof stage]
