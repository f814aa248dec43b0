/** Puts `key` last, also where it was there before; with more than `sizeMax` in it, what was put there longest ago makes room. */
export function putLast<Key, Value>(map: Map<Key, Value>, key: Key, value: Value, sizeMax: number): void {
  map.delete(key)
  map.set(key, value)
  if (map.size <= sizeMax) return
  const [longestAgo] = map.keys()
  if (longestAgo !== undefined) map.delete(longestAgo)
}
