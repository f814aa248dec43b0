/** Seconds between one try to reach the disk and the next. Then the firmware gets its turn: a minute and a half in all. */
export const diskPausesSeconds: readonly number[] = [2, 5, 10, 20, 40]

/** Seconds between polls of a held machine whose server does not answer: a restart of the server must not lose it. */
export const pollPausesSeconds: readonly number[] = [5, 10, 20, 40, 60, 60, 60, 60, 60, 60]

/** A secret that is refused means that the script is old: fetch a new one, but not for ever. */
export const refetchesMax = 3

/** How long a report may hold up a boot that has failed anyway. */
export const reportTimeoutMs = 2_000

/** What every firmware's text screen has. */
export const screenColumns = 80

/** How long a person may read why a machine is refused before the firmware goes on. */
export const refusalSeconds = 10

/** After a sign-in that reached nobody. */
export const signInRetrySeconds = 5

/** A held machine says again what to do after this many polls: by then its screen has scrolled. */
export const pollsBetweenNotices = 12

/** A poll counter beyond this is somebody playing. */
export const pollsMax = 1_000_000
