/** Readers: batches of a shard, a stream or a key, without a subscription. */
import { native, nativeSync } from './errors.js'
import type { NativeReader } from './native.js'
import { ReceivedBatch } from './record.js'

/** An async iterable of batches. Leaving the loop closes it. */
export abstract class Reader implements AsyncIterable<ReceivedBatch>, AsyncDisposable {
  #native: NativeReader

  /** @internal */
  constructor(inner: NativeReader) {
    this.#native = inner
  }

  /** The next batch; `null` at the end (`until`, `maxBatches`) and after `close`. */
  async nextBatch(): Promise<ReceivedBatch | null> {
    const columns = await native(() => this.#native.nextBatch())
    return columns ? new ReceivedBatch(columns) : null
  }

  /** Ends a pending `nextBatch`, too. Idempotent. */
  async close(): Promise<void> {
    nativeSync(() => this.#native.close())
  }

  [Symbol.asyncIterator](): AsyncIterator<ReceivedBatch, undefined> {
    return {
      next: async () => {
        const value = await this.nextBatch()
        return value === null ? { done: true, value: undefined } : { done: false, value }
      },
      return: async () => {
        await this.close()
        return { done: true, value: undefined }
      },
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** Reads one shard in order. Made by `client.shardReader` and `client.singleShardReader`. */
export class ShardReader extends Reader {}
/** Reads all shards of a stream; ordered within each shard. Made by `client.streamReader`. */
export class StreamReader extends Reader {}
/** Reads the records of one key in order. Made by `client.keyReader`. */
export class KeyReader extends Reader {}
