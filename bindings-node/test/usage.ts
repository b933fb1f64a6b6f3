// Compiled, never run: what the declarations must accept and refuse.
import { connect, NotFoundError, RecordId, type ReceivedRecord } from 'hstreamdb'

export async function usage(): Promise<void> {
  await using client = await connect('hstream://localhost', { requestTimeoutMs: 1000, signal: AbortSignal.timeout(1) })
  await client.createStream('s', { shardCount: 2 })
  // @ts-expect-error an option that does not exist
  await client.createStream('s', { shards: 2 })
  await using producer = await client.producer('s', { compression: 'zstd', whenFull: 'fail' })
  // @ts-expect-error not a compression
  await client.producer('s', { compression: 'lz4' })
  const id: RecordId = await producer.append({ json: true }, { key: 'k' })
  const ids: RecordId[] = await producer.appendMany(['a', Buffer.from('b')], ['k', 'k'])
  const shard: bigint = ids[0]?.shardId ?? id.shardId
  for await (const batch of await client.consumer('sub', { ackMaxAgeMs: 10 })) {
    for (const record of batch) use(record)
    batch.ack()
  }
  for await (const batch of await client.shardReader('s', shard, { from: id })) use(...batch.records)
  await client.trimShard('s', shard, id)
  await client.trimStream('s', new Date())
  const trimmed: RecordId[] = await client.trimShards('s', [await client.tailRecordId('s', shard)])
  const { offset, checkpoints } = await client.getSubscription('sub')
  console.log(trimmed, offset === 'latest', checkpoints.get(shard), (await client.listConsumers('sub'))[0]?.userAgent)
  try {
    await client.deleteStream('s')
  } catch (error) {
    if (error instanceof NotFoundError) console.log(error.kind, error.node)
  }
}

function use(..._records: ReceivedRecord[]): void {}
