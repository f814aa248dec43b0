/**
 * PXE's options inside option 43: PXE 2.1 §2.2.2 table 2-1.
 *
 *   tag 6   discovery control      1 byte: bit 0 no broadcast, bit 1 no multicast, bit 2 only listed servers,
 *                                  bit 3 "the boot file is named here; ask nobody else"
 *   tag 8   boot servers           per entry: type (2), address count (1), addresses (4 each)
 *   tag 9   boot menu              per entry: type (2), label length (1), label
 *   tag 10  menu prompt            timeout in seconds (1), text
 *   tag 71  boot item              type (2), layer (2): what was chosen; bit 15 of the layer asks for credentials
 *   tag 255 end
 *
 * Numbers are big-endian.
 */
import { WireError } from '../wire/reader.ts'
import { asciiBytes, asciiText, encapsulate, Options, readOptions } from './option.ts'
import type { PxeMenu } from './policy.ts'

const tag = { discoveryControl: 6, bootServers: 8, bootMenu: 9, menuPrompt: 10, bootItem: 71 } as const

/** Bit 3: the firmware loads the file of this very packet. */
const fileIsHere = 0x08
/** Bits 0 to 2: ask only the listed servers, by unicast. */
const askListedServers = 0x07

const endTag = Uint8Array.of(255)

/** For a boot without a menu. */
export const pxeBootHere: Uint8Array = withEnd(encapsulate([[tag.discoveryControl, Uint8Array.of(fileIsHere)]]))

/** A menu; what is chosen from it is asked of `serverAddress` on port 4011. */
export function writePxeMenu(menu: PxeMenu, serverAddress: number): Uint8Array {
  const address = [
    serverAddress >>> 24,
    (serverAddress >>> 16) & 0xff,
    (serverAddress >>> 8) & 0xff,
    serverAddress & 0xff,
  ]
  const servers: number[] = []
  const entries: number[] = []
  for (const entry of menu.entries) {
    const type = [entry.bootServerType >>> 8, entry.bootServerType & 0xff]
    // Type 0 is the local disk: no server has it (PXE 2.1 table 2-1).
    if (entry.bootServerType !== 0) servers.push(...type, 1, ...address)
    entries.push(...type, entry.label.length, ...asciiBytes(entry.label))
  }
  return withEnd(
    encapsulate([
      [tag.discoveryControl, Uint8Array.of(askListedServers)],
      [tag.bootServers, Uint8Array.from(servers)],
      [tag.bootMenu, Uint8Array.from(entries)],
      [tag.menuPrompt, Uint8Array.of(menu.timeoutSeconds, ...asciiBytes(menu.prompt))],
    ]),
  )
}

export type PxeBootItem = { readonly bootServerType: number; readonly layer: number }

/** What a boot server request on port 4011 asks for. Undefined if it names nothing. @throws {WireError} */
export function readPxeBootItem(vendorSpecific: Uint8Array): PxeBootItem | undefined {
  const value = within(vendorSpecific).raw(tag.bootItem)
  if (value === undefined) return undefined
  if (value.byteLength !== 4) throw new WireError('badLength', 0)
  const [typeHigh = 0, typeLow = 0, layerHigh = 0, layerLow = 0] = value
  return { bootServerType: typeHigh * 256 + typeLow, layer: layerHigh * 256 + layerLow }
}

/** The answer to a boot server request repeats what was asked for. */
export function writePxeBootItem(item: PxeBootItem): Uint8Array {
  const { bootServerType, layer } = item
  return withEnd(
    encapsulate([
      [tag.bootItem, Uint8Array.of(bootServerType >>> 8, bootServerType & 0xff, layer >>> 8, layer & 0xff)],
    ]),
  )
}

/** The labels of a menu with their boot server types, as firmware would show them. @throws {WireError} */
export function readPxeMenuLabels(vendorSpecific: Uint8Array): ReadonlyMap<number, string> {
  const value = within(vendorSpecific).raw(tag.bootMenu) ?? new Uint8Array(0)
  const labels = new Map<number, string>()
  let at = 0
  while (at < value.byteLength) {
    const bytes = value[at + 2]
    if (bytes === undefined || at + 3 + bytes > value.byteLength) throw new WireError('truncated', at)
    labels.set((value[at] ?? 0) * 256 + (value[at + 1] ?? 0), asciiText(value.subarray(at + 3, at + 3 + bytes)))
    at += 3 + bytes
  }
  return labels
}

/** @throws {WireError} */
export function readPxeDiscoveryControl(vendorSpecific: Uint8Array): number | undefined {
  return within(vendorSpecific).raw(tag.discoveryControl)?.[0]
}

function within(vendorSpecific: Uint8Array): Options {
  const options = new Options()
  readOptions(vendorSpecific, 0, options)
  return options
}

function withEnd(options: Uint8Array): Uint8Array {
  const target = new Uint8Array(options.byteLength + 1)
  target.set(options)
  target.set(endTag, options.byteLength)
  return target
}
