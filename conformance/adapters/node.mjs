// The Node adapter: the package's public API behind JSON lines.

import { createInterface } from 'node:readline'
import {
  ClosedError,
  CodecError,
  connect,
  HStreamError,
  RecordId,
  UnimplementedError,
} from '../../bindings-node/dist/index.js'

const timeoutMs = 20_000
let address, client, producer, reader
const consumers = new Map()

const names = (list) => ({ names: list.sort() })

/** What a client does besides records. */
const admin = {
  create_stream: async (client, { stream, options }) => void (await client.createStream(stream, options)),
  delete_stream: async (client, { stream, force, ignore_missing: ignoreMissing }) =>
    void (await client.deleteStream(stream, { force, ignoreMissing })),
  get_stream: async (client, { stream }) => {
    const { name, shardCount, replicationFactor, backlogDurationSecs } = await client.getStream(stream)
    return {
      name,
      shard_count: shardCount,
      replication_factor: replicationFactor,
      backlog_duration_secs: backlogDurationSecs,
    }
  },
  list_streams: async (client, { prefix }) => names((await client.listStreams({ prefix })).map(({ name }) => name)),
  list_shards: async (client, { stream }) => {
    const shards = await client.listShards(stream)
    return { shards: shards.map(({ id, start, end }) => ({ id: `${id}`, start: `${start}`, end: `${end}` })) }
  },
  tail_record_id: async (client, { stream, shard }) => ({ id: `${await client.tailRecordId(stream, BigInt(shard))}` }),
  trim_stream: async (client, { stream, before }) => void (await client.trimStream(stream, before)),
  trim_shard: async (client, { stream, shard, before }) => void (await client.trimShard(stream, BigInt(shard), before)),
  trim_shards: async (client, { stream, ids }) => {
    const points = await client.trimShards(stream, ids.map(RecordId.parse))
    return { ids: points.map(String) }
  },
  create_subscription: async (client, { subscription, stream, options }) =>
    void (await client.createSubscription(subscription, stream, options)),
  get_subscription: async (client, { subscription }) => {
    const found = await client.getSubscription(subscription)
    return {
      id: found.id,
      stream: found.stream,
      ack_timeout_secs: found.ackTimeoutSecs,
      max_unacked_records: found.maxUnackedRecords,
      offset: found.offset,
    }
  },
  list_subscriptions: async (client, { prefix }) =>
    names((await client.listSubscriptions({ prefix })).map(({ id }) => id)),
  delete_subscription: async (client, { subscription, force }) =>
    void (await client.deleteSubscription(subscription, { force })),
  list_consumers: async (client, { subscription }) =>
    names((await client.listConsumers(subscription)).map(({ name }) => name)),
}

const commands = {
  connect: async ({ url }) => {
    address = url
    client = await connect(url)
  },
  together: async ({ connections, command: { do: name, ...rest } }) => {
    const clients = await Promise.all(Array.from({ length: connections }, () => connect(address)))
    const answers = await Promise.all(clients.map((client) => answer(() => admin[name](client, rest))))
    await Promise.all(clients.map((client) => client.close({ timeoutMs })))
    return { answers }
  },
  producer: async ({ stream, options }) => void (producer = await client.producer(stream, options)),
  append: async ({ records }) => ({ ids: (await appendMany(records)).map(String) }),
  close_producer: async ({ records, timeout_ms }) => {
    const appended = appendMany(records).then(
      (ids) => ({ ids: ids.map(String) }),
      (error) => ({ failure: failure(error) }),
    )
    const { acknowledged, failed, unresolved } = await producer.close({ timeoutMs: timeout_ms })
    return { acknowledged, failed, unresolved, ...(await appended) }
  },
  attach: async ({ subscription, consumer, options }) =>
    void consumers.set(consumer, { handle: await client.consumer(subscription, options) }),
  receive: async ({ consumer, timeout_ms, ack }) => {
    const batch = await next(consumers.get(consumer), timeout_ms)
    if (batch === 'late') return { records: [] }
    if (batch === null) throw new ClosedError('the consumer was stopped', { kind: 'closed' })
    if (ack) batch.ack()
    try {
      return { records: shown(batch) }
    } catch (error) {
      if (!(error instanceof CodecError)) throw error
      return { records: [], unreadable: failure(error) }
    }
  },
  ack: async ({ consumer, ids }) => consumers.get(consumer).handle.ack(ids.map(RecordId.parse)),
  detach: async ({ consumer }) => {
    const { clean } = await consumers.get(consumer).handle.stop({ timeoutMs })
    consumers.delete(consumer)
    return { clean }
  },
  open_reader: async ({ kind, stream, shard, key, options }) => {
    const open = {
      shard: () => client.shardReader(stream, BigInt(shard), options),
      stream: () => client.streamReader(stream, options),
      single: () => client.singleShardReader(stream, options),
      key: () => client.keyReader(stream, key, options),
    }
    if (!(kind in open)) throw new UnimplementedError(`there are no ${kind} readers`, { kind: 'unimplemented' })
    reader = { handle: await open[kind]() }
  },
  read: async ({ timeout_ms }) => {
    const batch = await next(reader, timeout_ms)
    if (batch === 'late') return { records: [], end: false }
    if (batch === null) return { records: [], end: true }
    return { records: shown(batch), end: false }
  },
  close_reader: async () => void (await reader.handle.close()),
  close: async () => void (await client.close({ timeoutMs })),
}

function appendMany(records) {
  const payloads = records.map(([, payload]) => Buffer.from(payload, 'base64'))
  return producer.appendMany(
    payloads,
    records.map(([key]) => key),
  )
}

/** The next batch, or 'late'; one asked for in vain belongs to the next call. */
async function next(source, timeoutMs) {
  source.waiting ??= source.handle.nextBatch()
  let timer
  const late = new Promise((resolve) => (timer = setTimeout(resolve, timeoutMs, 'late')))
  try {
    const batch = await Promise.race([source.waiting, late])
    if (batch !== 'late') source.waiting = undefined
    return batch
  } catch (error) {
    source.waiting = undefined
    throw error
  } finally {
    clearTimeout(timer)
  }
}

function shown(batch) {
  return batch.records.map((record) => ({
    id: String(record.id),
    key: record.key,
    payload: Buffer.from(record.payload).toString('base64'),
  }))
}

function failure({ kind, code, mayHaveBeenApplied, message }) {
  return { kind, code, may_have_been_applied: mayHaveBeenApplied, message }
}

async function answer(call) {
  try {
    return { ok: (await call()) ?? {} }
  } catch (error) {
    if (!(error instanceof HStreamError)) throw error
    return { error: failure(error) }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...rest } = JSON.parse(line)
  const call = name in admin ? () => admin[name](client, rest) : () => commands[name](rest)
  process.stdout.write(JSON.stringify(await answer(call)) + '\n')
}
