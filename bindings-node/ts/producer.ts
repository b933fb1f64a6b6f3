/** Producers: records in, ids out. Batching, order, retries and flow control happen in the core. */
import { ClosedError, InvalidArgumentError, OverloadedError, fromNative, native, nativeSync } from './errors.js'
import type { CloseReport, NativeProducer } from './native.js'
import { Chunk, Group, ready, type AppendOptions, type Payload, type Ready } from './outbox.js'
import type { RecordId } from './record.js'

/** How long `close` waits unless told otherwise, in milliseconds. */
const CLOSE_TIMEOUT_MS = 30_000
/** Bytes that may wait in JavaScript for room in the core: beyond that `append` rejects instead of filling the memory. */
const WAITING_BYTES = 256 * 1024 * 1024
const WAITING_RECORDS = 1_000_000

/** Appends records to one stream, in order per shard. Made by `client.producer`. */
export class Producer implements AsyncDisposable {
  #native: NativeProducer
  #stream: string
  #maxRecords: number | undefined
  #queue: Chunk[] = []
  #waitingRecords = 0
  #waitingBytes = 0
  #pumping: Promise<void> | undefined
  #outstanding = new Set<Promise<void>>()
  #closing: Promise<CloseReport> | undefined

  /** @internal */
  constructor(inner: NativeProducer, stream: string, maxRecords?: number) {
    this.#native = inner
    this.#stream = stream
    this.#maxRecords = maxRecords
  }

  /**
   * Appends a record; resolves with its id when the server has stored it. The payload is copied at once. Calls made one
   * after the other keep their order (per key); do not await each one if throughput matters.
   *
   * While the core's flow control is full, records wait here; past 256 MiB or a million of them it rejects with
   * `OverloadedError`. With `whenFull: 'fail'` nothing waits.
   */
  async append(payload: Payload, options?: AppendOptions): Promise<RecordId> {
    const record = ready(payload, options)
    const [id] = await this.#push([record])
    return id!
  }

  /**
   * Appends many records; resolves with their ids when all are stored. If some fail it rejects with the first error when
   * all are resolved; `error.ids` then has `null` for those that failed.
   *
   * @param keys one key for all, or one for each payload.
   */
  async appendMany(payloads: Iterable<Payload>, keys: string | readonly string[] = ''): Promise<RecordId[]> {
    const list = [...payloads]
    if (typeof keys !== 'string' && keys.length !== list.length) {
      throw new InvalidArgumentError(`${list.length} payloads need as many keys, not ${keys.length}`, {
        kind: 'invalid_argument',
      })
    }
    const key = (index: number) => (typeof keys === 'string' ? keys : keys[index])
    return this.#push(list.map((payload, index) => ready(payload, { key: key(index) })))
  }

  /** Resolves when everything appended before is resolved; rejects with the first error among it. */
  async flush(): Promise<void> {
    await this.#pumping
    const before = [...this.#outstanding]
    await native(() => this.#native.flush())
    await Promise.all(before)
  }

  /** Records and bytes that are not resolved yet. */
  get pending(): { records: number; bytes: number } {
    const [records, bytes] = nativeSync(() => this.#native.pending())
    return { records: records + this.#waitingRecords, bytes: bytes + this.#waitingBytes }
  }

  /**
   * Takes no more records, waits for those appended (default 30 s) and reports. Idempotent. What is unresolved then
   * rejects with `ClosedError` or `OutcomeUnknownError`.
   */
  close({ timeoutMs = CLOSE_TIMEOUT_MS }: { timeoutMs?: number } = {}): Promise<CloseReport> {
    this.#closing ??= this.#close(timeoutMs)
    return this.#closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(timeoutMs: number): Promise<CloseReport> {
    const deadline = Date.now() + timeoutMs
    await within(this.#pumping, timeoutMs)
    const left = Math.max(0, deadline - Date.now())
    // What still waits for room after this is refused by the core as closed.
    return native(() => this.#native.close(left))
  }

  #push(records: Ready[]): Promise<RecordId[]> {
    if (this.#closing !== undefined) {
      throw new ClosedError(`append to stream "${this.#stream}": the producer is closed`, {
        kind: 'closed',
        operation: 'append',
        resource: this.#stream,
      })
    }
    if (this.#waitingBytes >= WAITING_BYTES || this.#waitingRecords >= WAITING_RECORDS) {
      throw new OverloadedError(
        `append to stream "${this.#stream}": ${this.#waitingRecords} records already wait for room; await earlier appends`,
        { kind: 'overloaded', operation: 'append', resource: this.#stream, retryable: true },
      )
    }
    const group = new Group(records.length)
    records.forEach((record, place) => {
      let chunk = this.#queue.at(-1)
      if (chunk === undefined || chunk.full) this.#queue.push((chunk = new Chunk(this.#maxRecords)))
      const before = chunk.size
      chunk.push(record, group, place)
      this.#waitingRecords += 1
      this.#waitingBytes += chunk.size - before
    })
    // Not at once: appends of the same turn of the event loop cross together.
    this.#pumping ??= Promise.resolve().then(() => this.#pump())
    return group.promise
  }

  /** Hands the queue over in order; waits while the core has no room. */
  async #pump(): Promise<void> {
    let chunk: Chunk | undefined
    while ((chunk = this.#queue.shift()) !== undefined) {
      this.#waitingRecords -= chunk.records
      this.#waitingBytes -= chunk.size
      const admitted = this.#hand(chunk)
      if (admitted !== undefined) await admitted
    }
    this.#pumping = undefined
  }

  #hand(chunk: Chunk): Promise<void> | undefined {
    try {
      const { outcome, admitted } = this.#native.appendMany(
        chunk.payloads.bytes(),
        Uint32Array.from(chunk.payloads.ends),
        chunk.keys.bytes(),
        Uint32Array.from(chunk.keys.ends),
        chunk.extras,
      )
      const settled = outcome
        .then((result) => chunk.settle(result))
        .catch((error: unknown) => chunk.fail(fromNative(error)))
        .finally(() => this.#outstanding.delete(settled))
      this.#outstanding.add(settled)
      return admitted?.catch(() => undefined)
    } catch (error) {
      chunk.fail(fromNative(error))
      return undefined
    }
  }
}

/** Waits for a promise, but no longer than that. */
async function within(promise: Promise<void> | undefined, timeoutMs: number): Promise<void> {
  if (promise === undefined) return
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs)
  })
  await Promise.race([promise, late])
  clearTimeout(timer)
}
