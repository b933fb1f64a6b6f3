/** Records on their way into the core: copied when they are appended, handed over many at a time. */
import { InvalidArgumentError, fromJson } from './errors.js'
import type { AppendResult, RecordExtra } from './native.js'
import { RecordId, idAt } from './record.js'

/** Bytes as they are, text as UTF-8, and a plain object as an HRecord. */
export type Payload = Uint8Array | string | { readonly [key: string]: unknown }

/** What a record has beside its payload. */
export interface AppendOptions {
  /** Decides the shard; records of one key keep their order. Default: the empty key. */
  key?: string
  /** Attributes, in their order. */
  attributes?: Readonly<Record<string, string>>
}

/** Records of one call into the native half; a crossing costs microseconds, so this only has to be "many". */
const CHUNK_RECORDS = 1_000
const CHUNK_BYTES = 1 << 20

/** The records of one `append` or `appendMany` and the promise of their ids. */
export class Group {
  readonly promise: Promise<RecordId[]>
  #ids: (RecordId | null)[]
  #left: number
  #error: unknown
  #resolve!: (ids: RecordId[]) => void
  #reject!: (error: unknown) => void

  constructor(size: number) {
    this.#ids = new Array<RecordId | null>(size).fill(null)
    this.#left = size
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    if (size === 0) this.#resolve([])
  }

  done(place: number, id: RecordId): void {
    this.#ids[place] = id
    this.#count()
  }

  fail(error: unknown): void {
    this.#error ??= error
    this.#count()
  }

  #count(): void {
    this.#left -= 1
    if (this.#left > 0) return
    if (this.#error === undefined) {
      this.#resolve(this.#ids as RecordId[])
      return
    }
    if (this.#ids.length > 1 && this.#error instanceof Error) {
      // Which records of the call are stored all the same.
      Object.defineProperty(this.#error, 'ids', { value: this.#ids, enumerable: false, configurable: true })
    }
    this.#reject(this.#error)
  }
}

/** A growing buffer and where each of its items ends. */
class Column {
  #bytes = Buffer.allocUnsafe(4096)
  #length = 0
  readonly ends: number[] = []

  get length(): number {
    return this.#length
  }

  push(item: Uint8Array | string): void {
    if (typeof item === 'string') {
      // No UTF-16 unit takes more than three bytes of UTF-8.
      this.#reserve(item.length * 3)
      this.#length += this.#bytes.write(item, this.#length, 'utf8')
    } else {
      this.#reserve(item.byteLength)
      this.#bytes.set(item, this.#length)
      this.#length += item.byteLength
    }
    this.ends.push(this.#length)
  }

  bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length)
  }

  #reserve(more: number): void {
    const needed = this.#length + more
    if (needed <= this.#bytes.length) return
    const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.#bytes.length))
    this.#bytes.copy(larger, 0, 0, this.#length)
    this.#bytes = larger
  }
}

/** Records that cross together. */
export class Chunk {
  readonly payloads = new Column()
  readonly keys = new Column()
  readonly extras: RecordExtra[] = []
  #groups: Group[] = []
  #places: number[] = []

  get records(): number {
    return this.#groups.length
  }

  get size(): number {
    return this.payloads.length + this.keys.length
  }

  /** Of one record at least, so it always can be filled. */
  get full(): boolean {
    return this.records >= this.maxRecords || this.size >= CHUNK_BYTES
  }

  /** @param maxRecords what flow control can ever admit at once, if that is less. */
  constructor(readonly maxRecords = CHUNK_RECORDS) {
    this.maxRecords = Math.min(maxRecords, CHUNK_RECORDS)
  }

  push(record: Ready, group: Group, place: number): void {
    if (record.hrecord || record.attributes.length > 0) {
      this.extras.push({ index: this.records, hrecord: record.hrecord, attributes: record.attributes })
    }
    this.payloads.push(record.payload)
    this.keys.push(record.key)
    this.#groups.push(group)
    this.#places.push(place)
  }

  settle(result: AppendResult): void {
    const failed = new Map<number, unknown>()
    for (const { start, end, error } of result.errors) {
      const rebuilt = fromJson(error)
      for (let index = start; index < end; index += 1) failed.set(index, rebuilt)
    }
    this.#groups.forEach((group, index) => {
      if (failed.has(index)) group.fail(failed.get(index))
      else group.done(this.#places[index]!, idAt(result.ids, index))
    })
  }

  fail(error: unknown): void {
    for (const group of this.#groups) group.fail(error)
  }
}

/** A record whose form was checked. */
export interface Ready {
  payload: Uint8Array | string
  key: string
  hrecord: boolean
  attributes: string[][]
}

/** Checks what the application gave; the core checks the rest. */
export function ready(payload: Payload, options: AppendOptions = {}): Ready {
  const key = options.key ?? ''
  if (typeof key !== 'string') throw refuse(`a key is a string, not ${describe(key)}`)
  const attributes = Object.entries(options.attributes ?? {}).map(([name, value]) => [name, String(value)])
  if (typeof payload === 'string' || payload instanceof Uint8Array) {
    return { payload, key, hrecord: false, attributes }
  }
  if (payload !== null && typeof payload === 'object' && isPlain(payload)) {
    return { payload: JSON.stringify(payload), key, hrecord: true, attributes }
  }
  throw refuse(`a payload is a string, a Uint8Array or a plain object, not ${describe(payload)}`)
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

function describe(value: unknown): string {
  return value === null ? 'null' : typeof value === 'object' ? value.constructor.name : typeof value
}

function refuse(message: string): InvalidArgumentError {
  return new InvalidArgumentError(message, { kind: 'invalid_argument' })
}
