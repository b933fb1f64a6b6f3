// Records through a real server: appended, read, consumed, acknowledged.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { HStreamError, RecordId, connect } from '../dist/index.js'
import { startServer } from './server.mjs'

let server
let client
let number = 0
const fresh = (name) => `${name}-${process.pid}-${++number}`
const text = (record) => record.payload.toString()

before(async () => {
  server = await startServer()
  client = await connect(server.url)
})
after(async () => {
  await client?.close()
  await server?.stop()
})

/** A new stream with a subscription from its beginning. */
async function streamAndSubscription(shardCount = 1, ackTimeoutSecs = 600) {
  const stream = fresh('stream')
  const subscription = fresh('subscription')
  await client.createStream(stream, { shardCount })
  await client.createSubscription(subscription, stream, { offset: 'earliest', ackTimeoutSecs })
  return { stream, subscription }
}

/** Receives until `count` records are there, acknowledging every batch; leaves the subscription. */
async function receive(subscription, count) {
  const consumer = await client.consumer(subscription, { signal: AbortSignal.timeout(20_000) })
  const records = []
  for await (const batch of consumer) {
    records.push(...batch)
    batch.ack()
    if (records.length >= count) break
  }
  assert.equal(records.length, count, 'records received within 20 s')
  return records
}

test('streams and subscriptions are created, listed and deleted', async () => {
  const { stream, subscription } = await streamAndSubscription(3)
  const rows = await client.listStreams({ prefix: stream })
  assert.deepEqual(
    rows.map((row) => [row.name, row.shardCount]),
    [[stream, 3]],
  )
  const shards = await client.listShards(stream)
  assert.equal(shards.length, 3)
  assert.equal(shards[0].start, 0n)
  assert.equal(shards[2].end, (1n << 128n) - 1n)
  assert.equal((await client.listSubscriptions({ prefix: subscription })).length, 1)
  await assert.rejects(client.createStream(stream), { name: 'AlreadyExistsError', kind: 'already_exists' })
  await client.deleteSubscription(subscription)
  await client.deleteStream(stream)
  assert.equal(await client.streamExists(stream), false)
  assert.equal(await client.subscriptionExists(subscription), false)
  await client.deleteStream(stream, { ignoreMissing: true })
})

test('every append resolves with the id under which the record is delivered', async () => {
  const { stream, subscription } = await streamAndSubscription()
  const producer = await client.producer(stream, { batchMaxAgeMs: 5 })
  const ids = await Promise.all([
    producer.append('text', { key: 'k' }),
    producer.append(Buffer.from([0, 255, 1]), { key: 'k' }),
    producer.append(new Uint8Array(0)),
    producer.append('ünï→😀', { key: 'ключ', attributes: { a: '1', b: 'zwei' } }),
    producer.append({ temperature: 21.5, unit: 'C' }),
  ])
  await producer.close()
  const records = await receive(subscription, 5)
  assert.deepEqual(
    records.map((record) => String(record.id)),
    ids.map(String),
  )
  assert.equal(new Set(ids.map(String)).size, 5)
  assert.ok(ids.every((id) => id instanceof RecordId && RecordId.parse(String(id)).equals(id)))
  assert.equal(text(records[0]), 'text')
  assert.deepEqual([...records[1].payload], [0, 255, 1])
  assert.equal(records[2].payload.length, 0)
  assert.equal(text(records[3]), 'ünï→😀')
  assert.deepEqual(
    records.map((record) => record.key),
    ['k', 'k', '', 'ключ', ''],
  )
  assert.deepEqual(Object.fromEntries(records[3].attributes), { a: '1', b: 'zwei' })
  assert.equal(records[4].type, 'hrecord')
  assert.deepEqual(records[4].json(), { temperature: 21.5, unit: 'C' })
})

test('append_many keeps the order of every key over several shards', async () => {
  const { stream, subscription } = await streamAndSubscription(4)
  const producer = await client.producer(stream, { batchMaxAgeMs: 5, compression: 'zstd' })
  const count = 5_000
  const keys = Array.from({ length: count }, (_, index) => `key-${index % 17}`)
  const payloads = keys.map((key, index) => `${key}:${index}`)
  const ids = await producer.appendMany(payloads, keys)
  assert.equal(ids.length, count)
  await producer.close()
  const records = await receive(subscription, count)
  const last = new Map()
  for (const record of records) {
    const [key, index] = text(record).split(':')
    assert.equal(record.key, key)
    assert.ok((last.get(key) ?? -1) < Number(index), `order of ${key}`)
    last.set(key, Number(index))
    assert.equal(String(record.id), String(ids[Number(index)]))
  }
})

test('a payload may be reused as soon as append returned', async () => {
  const { stream, subscription } = await streamAndSubscription()
  const producer = await client.producer(stream, { batchMaxAgeMs: 5 })
  const scratch = Buffer.alloc(1)
  const appends = []
  for (let value = 0; value < 50; value += 1) {
    scratch[0] = value
    appends.push(producer.append(scratch))
  }
  await producer.flush()
  await Promise.all(appends)
  await producer.close()
  const records = await receive(subscription, 50)
  assert.deepEqual(
    records.map((record) => record.payload[0]),
    Array.from({ length: 50 }, (_, value) => value),
  )
})

test('appends beyond flow control wait in order', async () => {
  const { stream, subscription } = await streamAndSubscription()
  const producer = await client.producer(stream, { batchMaxAgeMs: 1, flowControlRecords: 2_000 })
  const count = 12_000
  const appends = Array.from({ length: count }, (_, index) => producer.append(String(index)))
  await Promise.all(appends)
  assert.deepEqual(producer.pending, { records: 0, bytes: 0 })
  await producer.close()
  const records = await receive(subscription, count)
  assert.deepEqual(
    records.map(text),
    Array.from({ length: count }, (_, index) => String(index)),
  )
})

test('acknowledged records are not delivered again, others are after the ack timeout', async () => {
  const { stream, subscription } = await streamAndSubscription(1, 3)
  const producer = await client.producer(stream, { batchMaxAgeMs: 5 })
  await producer.appendMany(['a', 'b', 'c', 'd'])
  const first = await client.consumer(subscription, { signal: AbortSignal.timeout(20_000) })
  const batch = await first.nextBatch()
  assert.deepEqual(batch.records.map(text), ['a', 'b', 'c', 'd'])
  first.ack([batch.records[0], batch.ids[1]])
  await first.flushAcks()
  assert.deepEqual(await first.stop(), { unsentAcks: 0, clean: true })
  assert.equal(await first.nextBatch(), null, 'a stopped consumer has no more batches')
  const second = await receive(subscription, 2)
  assert.deepEqual(second.map(text), ['c', 'd'])
  await producer.close()
})

test('readers read to their end without a subscription', async () => {
  const { stream } = await streamAndSubscription()
  const producer = await client.producer(stream, { batchMaxAgeMs: 5 })
  await producer.appendMany(['1', '2'], 'k')
  const [third] = await producer.appendMany(['3', '4'], 'k')
  await producer.close()
  const [shard] = await client.listShards(stream)
  const open = [
    [['1', '2', '3', '4'], client.shardReader(stream, shard.id, { from: 'earliest', maxBatches: 2 })],
    [['3', '4'], client.shardReader(stream, shard.id, { from: third, maxBatches: 1 })],
    [['1', '2'], client.shardReader(stream, shard.id, { until: String(third), maxBatches: 1 })],
    [['1', '2', '3', '4'], client.streamReader(stream, { from: new Date(0), maxBatches: 2 })],
    [['1', '2', '3', '4'], client.keyReader(stream, 'k', { maxBatches: 2 })],
  ]
  for (const [expected, opening] of open) {
    const reader = await opening
    const seen = []
    for await (const batch of reader) {
      assert.throws(() => batch.ack(), { name: 'InvalidArgumentError' })
      seen.push(...batch.records.map(text))
    }
    assert.deepEqual(seen, expected)
    await reader.close()
    await reader.close()
  }
})

test('errors carry what the server said', async () => {
  const missing = fresh('missing')
  await assert.rejects(client.producer(missing), (error) => {
    assert.ok(error instanceof HStreamError)
    assert.equal(error.name, 'NotFoundError')
    assert.equal(error.kind, 'not_found')
    assert.equal(error.mayHaveBeenApplied, false)
    assert.match(error.message, new RegExp(missing))
    return true
  })
  await assert.rejects(client.consumer(missing), { kind: 'not_found' })
  await assert.rejects(client.deleteStream(missing), { kind: 'not_found' })
})

test('wrong arguments are refused before anything is sent', async () => {
  const { stream } = await streamAndSubscription()
  await assert.rejects(client.createStream(stream, { shards: 2 }), (error) => {
    assert.equal(error.name, 'InvalidArgumentError')
    assert.match(error.message, /shard_count/, 'the known options are named')
    return true
  })
  await assert.rejects(client.producer(stream, { batchMaxRecords: 'many' }), { name: 'InvalidArgumentError' })
  await assert.rejects(client.createStream(7), { name: 'InvalidArgumentError' })
  const producer = await client.producer(stream)
  await assert.rejects(producer.append(7), { name: 'InvalidArgumentError' })
  await assert.rejects(producer.append('x', { key: 7 }), { name: 'InvalidArgumentError' })
  await assert.rejects(producer.appendMany(['a', 'b'], ['k']), { name: 'InvalidArgumentError' })
  assert.deepEqual(await producer.appendMany([]), [])
  await producer.close()
})
