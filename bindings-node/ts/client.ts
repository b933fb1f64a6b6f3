/** The client: streams, subscriptions, and the handles made from it. */
import { Consumer } from './consumer.js'
import { toEntries } from './entries.js'
import { CancelledError, native, nativeSync } from './errors.js'
import {
  binding,
  type ConsumerInfo,
  type NativeClient,
  type ShardInfo,
  type StreamInfo,
  type SubscriptionDetails,
  type SubscriptionInfo,
} from './native.js'
import type {
  ClientOptions,
  ConsumerOptions,
  Offset,
  ProducerOptions,
  ReaderOptions,
  StreamOptions,
  SubscriptionOptions,
} from './options.js'
import { Producer } from './producer.js'
import { KeyReader, ShardReader, StreamReader } from './reader.js'
import { RecordId, idAt, idColumn } from './record.js'

/** How long `close` waits unless told otherwise, in milliseconds. */
const CLOSE_TIMEOUT_MS = 30_000

function offsetText(offset: Offset): string {
  return String(offset instanceof Date ? offset.getTime() : offset)
}

/**
 * Connects to a cluster.
 *
 * @param url `hstream://host:6570,host2` or `hstreams://...` for TLS; any node that answers suffices.
 * @param options see `ClientOptions`; `signal` gives up the attempt.
 */
export async function connect(
  url: string,
  options: ClientOptions & { signal?: AbortSignal } = {},
): Promise<HStreamClient> {
  const { signal } = options
  const entries = toEntries(options, 'signal')
  if (signal?.aborted) {
    throw new CancelledError(`connect to ${url}: aborted before it began`, { kind: 'cancelled', operation: 'connect' })
  }
  const cancel = new binding.Cancel()
  const abort = () => cancel.cancel()
  signal?.addEventListener('abort', abort, { once: true })
  try {
    return new HStreamClient(await native(() => binding.connect(url, entries, cancel)))
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}

/** A connection to a cluster. Made by `connect`; a closed one never keeps the process alive. */
export class HStreamClient implements AsyncDisposable {
  #native: NativeClient

  /** @internal */
  constructor(inner: NativeClient) {
    this.#native = inner
  }

  /** Creates a stream; `AlreadyExistsError` if there is one of this name. */
  createStream(name: string, options?: StreamOptions): Promise<StreamInfo> {
    return native(async () => this.#native.createStream(name, toEntries(options)))
  }

  /** Deletes a stream. `force` also when subscriptions refer to it; `ignoreMissing` makes a missing one no error. */
  deleteStream(
    name: string,
    { force = false, ignoreMissing = false }: { force?: boolean; ignoreMissing?: boolean } = {},
  ): Promise<void> {
    return native(() => this.#native.deleteStream(name, force, ignoreMissing))
  }

  /** Describes a stream; `NotFoundError` if there is none. */
  getStream(name: string): Promise<StreamInfo> {
    return native(() => this.#native.getStream(name))
  }

  streamExists(name: string): Promise<boolean> {
    return native(() => this.#native.streamExists(name))
  }

  listStreams({ prefix }: { prefix?: string } = {}): Promise<StreamInfo[]> {
    return native(() => this.#native.listStreams(prefix))
  }

  /** The shards of a stream, by ascending key range. */
  listShards(stream: string): Promise<ShardInfo[]> {
    return native(() => this.#native.listShards(stream))
  }

  /** The newest record of a shard; its `batchId` is 0 when nothing was appended yet. */
  async tailRecordId(stream: string, shard: bigint): Promise<RecordId> {
    return idAt(await native(() => this.#native.tailRecordId(stream, shard)), 0)
  }

  /** Forgets records of all shards: `'latest'` all there are, a time those before it and the first batch at or after it. */
  trimStream(stream: string, before: Offset): Promise<void> {
    return native(async () => this.#native.trimStream(stream, offsetText(before)))
  }

  /** Forgets records of one shard up to and with the batch of a record; other offsets as for `trimStream`. */
  trimShard(stream: string, shard: bigint, before: Offset): Promise<void> {
    return native(async () => this.#native.trimShard(stream, shard, offsetText(before)))
  }

  /** Forgets what lies before the earliest given record of each shard; answers with that record of each. */
  async trimShards(stream: string, ids: readonly RecordId[]): Promise<RecordId[]> {
    const points = await native(async () => this.#native.trimShards(stream, idColumn(ids)))
    return Array.from({ length: points.length / 3 }, (_, index) => idAt(points, index))
  }

  createSubscription(id: string, stream: string, options?: SubscriptionOptions): Promise<SubscriptionInfo> {
    return native(async () => this.#native.createSubscription(id, stream, toEntries(options)))
  }

  /** Deletes a subscription. `force` also while consumers are attached. */
  deleteSubscription(id: string, { force = false }: { force?: boolean } = {}): Promise<void> {
    return native(() => this.#native.deleteSubscription(id, force))
  }

  /** Describes a subscription with its committed checkpoints; `NotFoundError` if there is none. */
  async getSubscription(id: string): Promise<SubscriptionDetails> {
    const { info, checkpoints: numbers } = await native(() => this.#native.getSubscription(id))
    const checkpoints = new Map<bigint, bigint>()
    for (let index = 0; index < numbers.length; index += 2) checkpoints.set(numbers[index]!, numbers[index + 1]!)
    return { ...info, checkpoints }
  }

  /** The consumers attached to a subscription now. */
  listConsumers(subscription: string): Promise<ConsumerInfo[]> {
    return native(() => this.#native.listConsumers(subscription))
  }

  subscriptionExists(id: string): Promise<boolean> {
    return native(() => this.#native.subscriptionExists(id))
  }

  listSubscriptions({ prefix }: { prefix?: string } = {}): Promise<SubscriptionInfo[]> {
    return native(() => this.#native.listSubscriptions(prefix))
  }

  /** A producer of a stream; rejects with `NotFoundError` if there is none. */
  async producer(stream: string, options?: ProducerOptions): Promise<Producer> {
    const inner = await native(async () => this.#native.producer(stream, toEntries(options)))
    return new Producer(inner, stream, options?.flowControlRecords)
  }

  /** Joins a subscription. With `signal`, aborting stops the consumer. */
  async consumer(subscription: string, options: ConsumerOptions & { signal?: AbortSignal } = {}): Promise<Consumer> {
    const { signal } = options
    if (signal?.aborted) {
      throw new CancelledError(`consume subscription "${subscription}": aborted before it began`, {
        kind: 'cancelled',
        operation: 'consume',
        resource: subscription,
      })
    }
    const inner = await native(async () => this.#native.consumer(subscription, toEntries(options, 'signal')))
    return new Consumer(inner, signal)
  }

  /** Reads one shard. */
  async shardReader(stream: string, shard: bigint, options?: ReaderOptions): Promise<ShardReader> {
    return new ShardReader(await native(async () => this.#native.shardReader(stream, shard, toEntries(options))))
  }

  /** Reads all shards of a stream. */
  async streamReader(stream: string, options?: ReaderOptions): Promise<StreamReader> {
    return new StreamReader(await native(async () => this.#native.streamReader(stream, toEntries(options))))
  }

  /** Reads a stream that has one shard only: the stream's name is enough. */
  async singleShardReader(stream: string, options?: ReaderOptions): Promise<ShardReader> {
    return new ShardReader(await native(async () => this.#native.singleShardReader(stream, toEntries(options))))
  }

  /** Reads the records of one key. */
  async keyReader(stream: string, key: string, options?: ReaderOptions): Promise<KeyReader> {
    return new KeyReader(await native(async () => this.#native.keyReader(stream, key, toEntries(options))))
  }

  /** Asks a server to answer with the same text. */
  echo(message: string): Promise<string> {
    return native(() => this.#native.echo(message))
  }

  /** Counters of this client. */
  metrics(): Record<string, number> {
    return Object.fromEntries(nativeSync(() => this.#native.metrics()))
  }

  /** Closes the client and what was made from it. Idempotent. Default timeout 30 s. */
  close({ timeoutMs = CLOSE_TIMEOUT_MS }: { timeoutMs?: number } = {}): Promise<void> {
    return native(() => this.#native.close(timeoutMs))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
