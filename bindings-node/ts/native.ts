/** The native half: what `src/*.rs` exports, and where its file is found. */
import path from 'node:path'

export interface OptionEntry {
  name: string
  bool?: boolean
  number?: number
  text?: string
  bytes?: Buffer
  list?: string[]
  map?: string[][]
}

export interface BatchColumns {
  ids: BigUint64Array
  shardId: bigint
  publishTimeMs: number
  payload: Buffer
  ends: Uint32Array
  keys: string[]
  attributes?: string
  json?: (string | null)[]
  /** Why the batch cannot be decoded, as JSON. */
  error?: string
}

export interface RecordExtra {
  index: number
  hrecord: boolean
  attributes: string[][]
}

export interface AppendResult {
  ids: BigUint64Array
  errors: { start: number; end: number; error: string }[]
}

export interface NativeProducer {
  appendMany(
    payloads: Buffer,
    payloadEnds: Uint32Array,
    keys: Buffer,
    keyEnds: Uint32Array,
    extras: RecordExtra[],
  ): { outcome: Promise<AppendResult>; admitted?: Promise<void> }
  flush(): Promise<void>
  close(timeoutMs: number): Promise<CloseReport>
  pending(): [number, number]
}

export interface NativeConsumer {
  readonly name: string
  nextBatch(): Promise<BatchColumns | null>
  ack(ids: BigUint64Array): void
  flushAcks(): Promise<void>
  stop(timeoutMs: number): Promise<StopReport>
}

export interface NativeReader {
  nextBatch(): Promise<BatchColumns | null>
  close(): void
}

export interface NativeClient {
  echo(message: string): Promise<string>
  metrics(): [string, number][]
  createStream(name: string, options: OptionEntry[]): Promise<StreamInfo>
  deleteStream(name: string, force: boolean, ignoreMissing: boolean): Promise<void>
  getStream(name: string): Promise<StreamInfo>
  streamExists(name: string): Promise<boolean>
  listStreams(prefix?: string): Promise<StreamInfo[]>
  listShards(stream: string): Promise<ShardInfo[]>
  tailRecordId(stream: string, shard: bigint): Promise<BigUint64Array>
  trimStream(stream: string, before: string): Promise<void>
  trimShard(stream: string, shard: bigint, before: string): Promise<void>
  trimShards(stream: string, ids: BigUint64Array): Promise<BigUint64Array>
  createSubscription(id: string, stream: string, options: OptionEntry[]): Promise<SubscriptionInfo>
  getSubscription(id: string): Promise<{ info: SubscriptionInfo; checkpoints: BigUint64Array }>
  deleteSubscription(id: string, force: boolean): Promise<void>
  subscriptionExists(id: string): Promise<boolean>
  listSubscriptions(prefix?: string): Promise<SubscriptionInfo[]>
  listConsumers(subscription: string): Promise<ConsumerInfo[]>
  producer(stream: string, options: OptionEntry[]): Promise<NativeProducer>
  consumer(subscription: string, options: OptionEntry[]): Promise<NativeConsumer>
  shardReader(stream: string, shard: bigint, options: OptionEntry[]): Promise<NativeReader>
  streamReader(stream: string, options: OptionEntry[]): Promise<NativeReader>
  singleShardReader(stream: string, options: OptionEntry[]): Promise<NativeReader>
  keyReader(stream: string, key: string, options: OptionEntry[]): Promise<NativeReader>
  close(timeoutMs: number): Promise<void>
}

/** A stream as it stands. */
export interface StreamInfo {
  name: string
  replicationFactor: number
  /** Retention in seconds; 0 keeps records for ever. */
  backlogDurationSecs: number
  shardCount: number
  /** Milliseconds since 1970, if the server says it. */
  createdMs?: number
}

/** A shard and the part of the hashed key space it takes, both ends inclusive. */
export interface ShardInfo {
  id: bigint
  start: bigint
  end: bigint
  epoch: bigint
}

/** A subscription as it stands. */
export interface SubscriptionInfo {
  id: string
  stream: string
  ackTimeoutSecs: number
  maxUnackedRecords: number
  /** Where it started. */
  offset: 'earliest' | 'latest'
  /** Milliseconds since 1970, if the server says it. */
  createdMs?: number
}

/** A subscription and how far it is. */
export interface SubscriptionDetails extends SubscriptionInfo {
  /** By shard, the last batch that is acknowledged with everything before it. */
  checkpoints: Map<bigint, bigint>
}

/** A consumer that is attached to a subscription. */
export interface ConsumerInfo {
  name: string
  /** Where it connects from. */
  uri: string
  userAgent: string
}

/** What became of the records of a closed producer. */
export interface CloseReport {
  acknowledged: number
  failed: number
  /** Not resolved when the time was up; they may still be stored. */
  unresolved: number
}

/** What a stopped consumer leaves behind. */
export interface StopReport {
  /** Acknowledgements that the server did not get; their records are delivered again. */
  unsentAcks: number
  /** The server confirmed the end. */
  clean: boolean
}

interface Binding {
  coreVersion(): string
  errorKinds(): { name: string; className: string; number: number; doc: string }[]
  optionRows(): { scope: string; name: string; kind: string; unit: string; default: string; doc: string }[]
  Cancel: new () => { cancel(): void }
  connect(url: string, options: OptionEntry[], cancel?: object): Promise<NativeClient>
}

const file = path.join(__dirname, '..', `hstreamdb.${process.platform}-${process.arch}.node`)

function load(): Binding {
  try {
    // eslint-disable-next-line @typescript-eslint/no-require-imports
    return require(file) as Binding
  } catch (error) {
    throw new Error(
      `hstreamdb: its native module for ${process.platform}-${process.arch} cannot be loaded; build it with "npm run build"`,
      {
        cause: error,
      },
    )
  }
}

export const binding = load()
