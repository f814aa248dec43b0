/** Steps that one attempt remembers. A boot has about thirty; a machine that starts over and over must not grow. */
export const stepsPerAttemptMax = 200

/** Machines whose attempt is kept in memory; the one that was quiet longest makes room. */
export const attemptsInMemoryMax = 2_048

/** Events in memory for whoever connects late. */
export const recentEventsMax = 1_000

/** Readers of the stream at once: a dashboard in every browser of a lab. */
export const subscribersMax = 256

/** Text that a peer had a hand in (file names, reasons) is cut to this before it becomes part of an event. */
export const foreignTextCharactersMax = 200

/** DISCOVERs of one boot come in a burst of tries; after this much silence, the same question is a new boot. */
export const discoverBurstMs = 90_000
