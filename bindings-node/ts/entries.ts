/** Options on their way to the core, which alone knows names, units and ranges. */
import { InvalidArgumentError } from './errors.js'
import type { OptionEntry } from './native.js'

/** Every property except those that this side uses itself (`own`) as the core takes it. */
export function toEntries(options: object | undefined, ...own: string[]): OptionEntry[] {
  if (options === undefined || options === null) return []
  if (typeof options !== 'object') {
    throw new InvalidArgumentError('options are an object', { kind: 'invalid_argument' })
  }
  return Object.entries(options)
    .filter(([name, value]) => value !== undefined && !own.includes(name))
    .map(([name, value]) => toEntry(name, value))
}

function toEntry(name: string, value: unknown): OptionEntry {
  switch (typeof value) {
    case 'boolean':
      return { name, bool: value }
    case 'number':
      return { name, number: value }
    case 'bigint':
      return { name, text: String(value) }
    case 'string':
      return { name, text: value }
  }
  if (value instanceof Uint8Array) return { name, bytes: Buffer.from(value.buffer, value.byteOffset, value.byteLength) }
  if (value instanceof Date) return { name, text: String(value.getTime()) }
  if (Array.isArray(value)) return { name, list: value.map(String) }
  if (value !== null && typeof value === 'object') {
    const text = value.toString
    if (text !== Object.prototype.toString) return { name, text: String(value) }
    return { name, map: Object.entries(value).map(([key, item]) => [key, String(item)]) }
  }
  throw new InvalidArgumentError(`option "${name}": ${String(value)} is no value of an option`, {
    kind: 'invalid_argument',
  })
}
