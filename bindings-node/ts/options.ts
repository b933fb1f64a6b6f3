/** Options, written by the build from the table of the core (core-client/src/options.rs). */
import type { RecordId } from './record.js'

/** A place in a stream: a record, its id as text, or the first record at or after a time (milliseconds since 1970). */
export type Offset = 'earliest' | 'latest' | RecordId | Date | number | (string & {})

/** Options of `connect`. */
export interface ClientOptions {
  /** Several such addresses; added to url. */
  urls?: string[]
  /** Hosts without a scheme, such as host or host:6570 or [::1]:6570; added to url and urls. */
  hosts?: string[]
  /** Whether to speak TLS where only hosts are given; urls say so by their scheme. */
  tls?: boolean
  /** Certificates in PEM that the servers' certificates must lead to. Default: the system's. */
  tlsCaPem?: string | Uint8Array
  /** The client's certificate chain in PEM, for mutual TLS; together with tls_key_pem. */
  tlsCertPem?: string | Uint8Array
  /** The client's private key in PEM, for mutual TLS; together with tls_cert_pem. */
  tlsKeyPem?: string | Uint8Array
  /** File with what tls_ca_pem holds; read when connecting. The one set last counts, so for all three files. */
  tlsCaPath?: string
  /** File with what tls_cert_pem holds. */
  tlsCertPath?: string
  /** File with what tls_key_pem holds. */
  tlsKeyPath?: string
  /** Whether to trust the system's certificates besides those of tls_ca_pem. Default: false. */
  tlsUseSystemRoots?: boolean
  /** Name the servers' certificates must carry, instead of the host connected to. */
  tlsDomainName?: string
  /** Sent as `authorization: Basic <token>`, as the published clients do; a value that begins with `Basic ` or `Bearer ` is sent as it is. */
  authToken?: string
  /** Name for basic authentication; together with password. */
  username?: string
  /** Password for basic authentication; together with username. */
  password?: string
  /** Headers added to every call; names in lower case. */
  metadata?: Record<string, string>
  /** From host:port as the cluster names it (or host alone) to the host:port to connect to (or host alone); for NAT and containers. */
  hostMapping?: Record<string, string>
  /** Deadline of one try of a call. Unit: milliseconds. Default: 5000. */
  requestTimeoutMs?: number
  /** Deadline of a call altogether: tries and the pauses between them. Unit: milliseconds. Default: 30000. */
  totalTimeoutMs?: number
  /** Deadline of connecting: of one connection, and of finding the first node that answers. Unit: milliseconds. Default: 5000. */
  connectTimeoutMs?: number
  /** How long a node may owe an answer without a sign of life before calls that may be repeated go to another node, if there is one; it is asked for an echo in between. 0 waits for the deadlines above. Unit: milliseconds. Default: 500. */
  silenceTimeoutMs?: number
  /** How long nothing may be heard of a node that consumers or readers listen to before it is asked for a sign of life: one small call per node, however many listen. 0 leaves that to probe_interval_ms. Unit: milliseconds. Default: 2000. */
  nodeCheckIntervalMs?: number
  /** Tries of a call altogether; 1 never retries. Default: 5. */
  retryMaxAttempts?: number
  /** Longest pause before the second try; it doubles with every further one. The pause is random between half and all of that. Unit: milliseconds. Default: 100. */
  retryBaseMs?: number
  /** Longest pause between two tries. Unit: milliseconds. Default: 5000. */
  retryMaxMs?: number
  /** How often the list of nodes is refreshed in the background. Unit: milliseconds. Default: 30000. */
  discoveryIntervalMs?: number
  /** Largest message accepted from a server. Unit: bytes. Default: 33554432. */
  maxReceiveBytes?: number
  /** Connections per node that calls and appends take in turn. Consumers and readers have their own. Unit: connections. Default: 1. */
  channelsPerNode?: number
  /** Pause between two HTTP/2 pings on an idle connection; 0 sends none, and TCP finds dead peers. Published servers end connections that ping more often than every 300000. Unit: milliseconds. Default: 0. */
  http2KeepaliveMs?: number
}

/** Options of `createStream`. */
export interface StreamOptions {
  /** Copies of every record. Default: 1. */
  replicationFactor?: number
  /** Retention; 0 keeps records for ever. Unit: seconds. Default: 86400. */
  backlogDurationSecs?: number
  /** Shards the key space is split into. Default: 1. */
  shardCount?: number
}

/** Options of `createSubscription`. */
export interface SubscriptionOptions {
  /** A delivered record that is not acknowledged for this long is delivered again. Unit: seconds. Default: 600. */
  ackTimeoutSecs?: number
  /** Delivery pauses while this many records wait for their acknowledgement; 0 never delivers. Unit: records. Default: 10000. */
  maxUnackedRecords?: number
  /** Where a new subscription starts. Default: latest. */
  offset?: 'earliest' | 'latest'
  /** What a consumer has when it leaves or is lost goes to others at once instead of after the ack timeout. Needs a server that can. Default: false. */
  redeliverOnDisconnect?: boolean
  /** Deliveries of a record before it goes to the dead-letter stream; 0 is no limit. Needs dead_letter_stream and a server that can. Unit: deliveries. Default: 0. */
  maxDeliveries?: number
  /** Existing stream for records that reached max_deliveries. */
  deadLetterStream?: string
}

/** Options of `client.producer`. */
export interface ProducerOptions {
  /** A batch is sent when it holds this many records. Unit: records. Default: 100. */
  batchMaxRecords?: number
  /** A batch is sent before its encoded size exceeds this. Servers refuse batches above 1 MiB by default. Unit: bytes. Default: 524288. */
  batchMaxBytes?: number
  /** A batch is sent when its first record is this old; 0 sends as soon as the shard has room in flight. Unit: milliseconds. Default: 100. */
  batchMaxAgeMs?: number
  /** Compression of batches. Default: none. */
  compression?: 'none' | 'gzip' | 'zstd'
  /** gzip 0 to 9 (default 6), zstd -7 to 22 (default 3). */
  compressionLevel?: number
  /** Bytes of records waiting for their acknowledgement, altogether. Unit: bytes. Default: 104857600. */
  flowControlBytes?: number
  /** Records waiting for their acknowledgement, altogether. Unit: records. Default: 1000000. */
  flowControlRecords?: number
  /** What append does when flow control has no room. Default: wait. */
  whenFull?: 'wait' | 'fail'
  /** Longest wait for room before the append fails as overloaded; 0 waits without limit. Unit: milliseconds. Default: 0. */
  whenFullTimeoutMs?: number
  /** Batches of one shard in flight at a time; 1 against servers that cannot order them. Unit: batches. Default: 5. */
  maxInflightPerShard?: number
  /** Longest time from append to a result, tries included. Unit: milliseconds. Default: 120000. */
  deliveryTimeoutMs?: number
  /** Against servers that cannot tell a repeat: retry also what may have been stored, at the risk of storing it twice. Default: false. */
  allowDuplicates?: boolean
  /** Deadline of one try of a batch. Default: the client's. Unit: milliseconds. */
  requestTimeoutMs?: number
  /** Tries of a batch altogether; 1 never retries. Default: as many as delivery_timeout_ms has time for, the client's number where the server says that it failed. */
  retryMaxAttempts?: number
  /** Longest pause before the second try; it doubles with every further one. Default: the client's. Unit: milliseconds. */
  retryBaseMs?: number
  /** Longest pause between two tries. Default: the client's. Unit: milliseconds. */
  retryMaxMs?: number
}

/** Options of `client.consumer`. */
export interface ConsumerOptions {
  /** Name of the consumer, unique in its subscription: 1 to 255 characters, no control characters. Default: consumer- and 16 random hexadecimal digits. */
  name?: string
  /** When another consumer keeps the name, found three times in a row: go on under the name with a suffix, or end with the error. A consumer that was attached before goes on in either case: there it is its own last session. Default: suffix. */
  nameTaken?: 'suffix' | 'fail'
  /** Acknowledgements are sent when this many wait. Unit: records. Default: 100. */
  ackMaxRecords?: number
  /** Acknowledgements are sent when the first has waited this long. Unit: milliseconds. Default: 100. */
  ackMaxAgeMs?: number
  /** Bytes of batches received ahead of the application. One batch and at most 2 MiB on the way come on top. Unit: bytes. Default: 16777216. */
  prefetchBytes?: number
  /** Batches received ahead of the application. Unit: batches. Default: 100. */
  prefetchBatches?: number
  /** Sessions in a row that may be lost, or not be attached, before the consumer ends with the last error; 0 is without limit. Default: 0. */
  reconnectMaxAttempts?: number
  /** How long there may be no working session before the consumer ends with the last error; 0 is without limit. Unit: milliseconds. Default: 0. */
  reconnectTimeoutMs?: number
  /** How long the server may say nothing before it is asked whether the session is still one; 0 never asks. Unit: milliseconds. Default: 15000. */
  probeIntervalMs?: number
}

/** Options of the readers. */
export interface ReaderOptions {
  /** Where to start: earliest, latest, a record id, milliseconds since 1970, or the position of an earlier reader. Default: earliest. */
  from?: Offset
  /** Where to end: latest, a record id, or milliseconds since 1970, as of when the reader is opened. Default: never. */
  until?: Offset
  /** End after this many batches; 0 is without limit. Unit: batches. Default: 0. */
  maxBatches?: number
  /** Longest wait for the next batch before it fails as timed out; 0 waits without limit. For a polled reader: how long a read waits when nothing is there; 0 answers at once. Unit: milliseconds. Default: 0. */
  timeoutMs?: number
  /** Bytes of batches received ahead of the application, over all shards. One message per shard and what is on the way come on top. Unit: bytes. Default: 16777216. */
  prefetchBytes?: number
  /** Batches received ahead of the application, over all shards. Unit: batches. Default: 100. */
  prefetchBatches?: number
  /** How long a connection may say nothing before it is tried with an echo; 0 never tries it. Unit: milliseconds. Default: 15000. */
  probeIntervalMs?: number
  /** Id of a polled reader on the server. Default: reader- and 16 random hexadecimal digits. */
  readerId?: string
}
