/** Every bound of the room, with its unit and its reason. */

/** RFC 2131 §2: the fixed part, 236 bytes, and the magic cookie. Nothing shorter is DHCP. */
export const fixedBytes: number = 240

/** RFC 1542 §2.1: a BOOTP message has 300 bytes at least; relays and some ROMs drop shorter ones. */
export const messageBytesMin: number = 300

/** RFC 2131 §2: what every client takes without asking, counted as an IP datagram: 20 of IP and 8 of UDP go off. */
export const datagramBytesMin: number = 576
export const ipAndUdpBytes: number = 28

/** What leaves without fragments on Ethernet. OVMF says 65280 in option 57 and would not reassemble that. */
export const replyBytesMax: number = 1472

/** A request is a few hundred bytes; joining the parts of split options costs the square of this at worst. */
export const requestBytesMax: number = 4096

/** Options and their continuations in one message. Firmware sends about 20. */
export const optionPartsMax: number = 256

/** A file name or URL we put into a reply. Characters; 548 bytes of message leave about 200 for it. */
export const bootFileCharactersMax: number = 1024

/** An offer nobody took. RFC 2131 leaves it to us; OVMF takes 4 seconds from offer to request, a slow relay more. */
export const offerHoldSeconds: number = 60

/** After a DECLINE: whoever uses the address may be gone by then. */
export const quarantineSeconds: number = 3600

/** One machine that declines whatever it gets must not empty the pool: at most this part of it is set aside. */
export const quarantineShareMax: number = 0.25

/** Addresses in all pools together: a lease takes about 200 bytes, so 200 MB. */
export const poolAddressesMax: number = 1_048_576

/** A lease shorter than this makes machines ask all the time; RFC 2131's clients round T1 below it to zero. */
export const leaseSecondsMin: number = 60
export const leaseSecondsMax: number = 31_536_000

/** Leases gathered for one commit; what comes beyond waits for the next one. */
export const commitLeasesMax: number = 4096

/** Answers that wait for their lease to be kept. Past it requests are dropped: clients ask again. */
export const answersWaitingMax: number = 16_384

/** Events about bytes that are no DHCP: a flood must not fill the journal. */
export const malformedEventsPerSecondMax: number = 10

/** Machines whose router solicitation would be answered, most recent first out. */
export const solicitorsMax: number = 4096

/** How long after its last DHCP packet an iPXE's router solicitation is answered. */
export const solicitorSeconds: number = 120

/** Offers that a probe collects: one a server, and nobody has more servers. */
export const probeOffersMax: number = 64

/** The lease file is written anew when it has this many times as many lines as leases, and at least so many lines. */
export const compactionFactor: number = 4
export const compactionLinesMin: number = 16_384
