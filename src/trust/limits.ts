/** A certificate of RSA-4096 with many names is 3 KiB; a chain of four in PEM 16 KiB. */
export const pemBytesMax: number = 256 * 1024
export const chainCertificateCountMax: number = 8
/** Names in one certificate: every address and alias of one server. */
export const certificateNameCountMax: number = 100
/** RFC 5280 §4.1.2.2: at most 20 bytes, positive. */
export const serialBytes: number = 16
/** A first message of TLS with post-quantum keys is under 2 KiB; a PSK from a browser another 1 KiB. */
export const clientHelloBytesMax: number = 16 * 1024
/** Nearly all send one; who hides a name from a filter cuts it into a few. */
export const helloRecordsMax = 16
/** RFC 1035 §2.3.4. */
export const serverNameBytesMax: number = 255
