/** Consumers: batches of a subscription, acknowledged by the application. */
import { native, nativeSync } from './errors.js'
import type { NativeConsumer, StopReport } from './native.js'
import { ReceivedBatch, RecordId, idColumn, type ReceivedRecord } from './record.js'

/** How long `stop` waits unless told otherwise, in milliseconds. */
const STOP_TIMEOUT_MS = 30_000

/** An async iterable of batches. Leaving the loop stops the consumer. Made by `client.consumer`. */
export class Consumer implements AsyncIterable<ReceivedBatch>, AsyncDisposable {
  #native: NativeConsumer
  #ack: (ids: BigUint64Array) => void
  #signal: AbortSignal | undefined
  #abort = () => void this.stop().catch(() => undefined)

  /** @internal */
  constructor(inner: NativeConsumer, signal?: AbortSignal) {
    this.#native = inner
    this.#ack = (ids) => nativeSync(() => inner.ack(ids))
    this.#signal = signal
    // It may have been aborted while the consumer started.
    if (signal?.aborted) this.#abort()
    else signal?.addEventListener('abort', this.#abort, { once: true })
  }

  /** Its name within the subscription. */
  get name(): string {
    return this.#native.name
  }

  /** The next batch; `null` once the consumer is stopped. */
  async nextBatch(): Promise<ReceivedBatch | null> {
    const columns = await native(() => this.#native.nextBatch())
    return columns ? new ReceivedBatch(columns, this.#ack) : null
  }

  /**
   * Acknowledges records. Returns at once: acknowledgements are sent in batches, kept over reconnects, and flushed by
   * `stop`. What is not acknowledged in time is delivered again.
   */
  ack(records: RecordId | ReceivedRecord | Iterable<RecordId | ReceivedRecord>): void {
    const list = Symbol.iterator in records ? [...records] : [records]
    this.#ack(idColumn(list.map((item) => (item instanceof RecordId ? item : item.id))))
  }

  /** Resolves when all acknowledgements so far are sent. */
  flushAcks(): Promise<void> {
    return native(() => this.#native.flushAcks())
  }

  /** Ends delivery, flushes acknowledgements and leaves the subscription. Idempotent. Default timeout 30 s. */
  stop({ timeoutMs = STOP_TIMEOUT_MS }: { timeoutMs?: number } = {}): Promise<StopReport> {
    // A signal that outlives many consumers must not collect them.
    this.#signal?.removeEventListener('abort', this.#abort)
    return native(() => this.#native.stop(timeoutMs))
  }

  [Symbol.asyncIterator](): AsyncIterator<ReceivedBatch, undefined> {
    return {
      next: async () => {
        const value = await this.nextBatch()
        return value === null ? { done: true, value: undefined } : { done: false, value }
      },
      return: async () => {
        await this.stop()
        return { done: true, value: undefined }
      },
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }
}
