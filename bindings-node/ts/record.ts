/** Records and their ids, as they are received. */
import { InvalidArgumentError, fromJson } from './errors.js'
import type { BatchColumns } from './native.js'

/** Where a record lies: unique for ever, ascending within its shard. */
export class RecordId {
  constructor(
    readonly shardId: bigint,
    readonly batchId: bigint,
    readonly batchIndex: number,
  ) {}

  /** From the text that `toString` gives. */
  static parse(text: string): RecordId {
    const match = /^(\d+)-(\d+)-(\d+)$/.exec(text)
    if (match === null) {
      throw new InvalidArgumentError(`"${text}" is no record id (shard-batch-index)`, { kind: 'invalid_argument' })
    }
    return new RecordId(BigInt(match[1]!), BigInt(match[2]!), Number(match[3]))
  }

  toString(): string {
    return `${this.shardId}-${this.batchId}-${this.batchIndex}`
  }

  toJSON(): string {
    return this.toString()
  }

  equals(other: RecordId): boolean {
    return this.shardId === other.shardId && this.batchId === other.batchId && this.batchIndex === other.batchIndex
  }
}

/** The id at a place of a column of ids. */
export function idAt(ids: BigUint64Array, index: number): RecordId {
  return new RecordId(ids[3 * index]!, ids[3 * index + 1]!, Number(ids[3 * index + 2]!))
}

/** A column of ids. */
export function idColumn(ids: readonly RecordId[]): BigUint64Array {
  const column = new BigUint64Array(3 * ids.length)
  ids.forEach((id, index) => {
    column[3 * index] = id.shardId
    column[3 * index + 1] = id.batchId
    column[3 * index + 2] = BigInt(id.batchIndex)
  })
  return column
}

/** A record as the server delivered it. */
export interface ReceivedRecord {
  readonly id: RecordId
  readonly key: string
  /** The bytes; of an HRecord, its encoded form. A view into its batch: copy it to keep one record alone. */
  readonly payload: Buffer
  readonly attributes: ReadonlyArray<readonly [string, string]>
  readonly type: 'raw' | 'hrecord'
  /** The object of an HRecord; of a raw record, what its payload gives as JSON text. */
  json(): unknown
}

/** Records of one shard that were stored together; iterable. */
export class ReceivedBatch implements Iterable<ReceivedRecord> {
  #columns: BatchColumns
  #acker: ((ids: BigUint64Array) => void) | undefined
  #records: ReceivedRecord[] | undefined

  constructor(columns: BatchColumns, acker?: (ids: BigUint64Array) => void) {
    this.#columns = columns
    this.#acker = acker
  }

  get length(): number {
    return this.#columns.ids.length / 3
  }

  get shardId(): bigint {
    return this.#columns.shardId
  }

  /** When the server stored the batch. */
  get publishTime(): Date {
    return new Date(this.#columns.publishTimeMs)
  }

  get ids(): RecordId[] {
    return Array.from({ length: this.length }, (_, index) => idAt(this.#columns.ids, index))
  }

  /**
   * The records, in the order of their ids; made at the first use. `CodecError` for a batch that cannot be decoded: it
   * can still be acknowledged, or it comes again.
   */
  get records(): readonly ReceivedRecord[] {
    if (this.#records === undefined) {
      const { ids, payload, ends, keys, attributes, json, error } = this.#columns
      if (error !== undefined) throw fromJson(error)
      const lists: [string, string][][] | undefined = attributes === undefined ? undefined : JSON.parse(attributes)
      this.#records = keys.map((key, index) => {
        const bytes = payload.subarray(index === 0 ? 0 : ends[index - 1]!, ends[index]!)
        const text = json?.[index] ?? undefined
        return {
          id: idAt(ids, index),
          key,
          payload: bytes,
          attributes: lists?.[index] ?? [],
          type: text === undefined ? ('raw' as const) : ('hrecord' as const),
          json: () => JSON.parse(text ?? bytes.toString()),
        }
      })
    }
    return this.#records
  }

  [Symbol.iterator](): Iterator<ReceivedRecord> {
    return this.records[Symbol.iterator]()
  }

  /** Acknowledges all records of the batch. Only batches of a consumer take it. */
  ack(): void {
    if (this.#acker === undefined) {
      throw new InvalidArgumentError('a batch of a reader takes no acknowledgement', { kind: 'invalid_argument' })
    }
    this.#acker(this.#columns.ids)
  }
}
