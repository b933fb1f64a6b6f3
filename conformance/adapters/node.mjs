// The Node adapter: the package's public API behind JSON lines.

import { createInterface } from 'node:readline'
import { connect, HStreamError } from '../../bindings-node/dist/index.js'

const timeoutMs = 20_000
let client, producer, consumer
// A batch asked for by a receive that timed out belongs to the next one.
let waiting

const commands = {
  connect: async ({ url, options }) => void (client = await connect(url, options ?? {})),
  create_stream: async ({ stream, shards }) => void (await client.createStream(stream, { shardCount: shards })),
  delete_stream: async ({ stream }) => void (await client.deleteStream(stream)),
  list_streams: async () => void (await client.listStreams()),
  create_subscription: async ({ subscription, stream, ack_timeout_secs }) =>
    void (await client.createSubscription(subscription, stream, {
      offset: 'earliest',
      ackTimeoutSecs: ack_timeout_secs ?? 600,
    })),
  delete_subscription: async ({ subscription }) => void (await client.deleteSubscription(subscription)),
  producer: async ({ stream, options }) => void (producer = await client.producer(stream, options)),
  append: async ({ records }) => {
    const payloads = records.map(([, payload]) => Buffer.from(payload, 'base64'))
    const ids = await producer.appendMany(
      payloads,
      records.map(([key]) => key),
    )
    return { ids: ids.map(String) }
  },
  attach: async ({ subscription }) => void (consumer = await client.consumer(subscription)),
  receive: async ({ timeout_ms, ack }) => {
    waiting ??= consumer.nextBatch()
    let timer
    const late = new Promise((resolve) => (timer = setTimeout(resolve, timeout_ms, 'late')))
    const batch = await Promise.race([waiting, late])
    clearTimeout(timer)
    if (batch === 'late') return { records: [] }
    waiting = undefined
    if (batch === null) throw new Error('the subscription ended')
    if (ack) batch.ack()
    const records = [...batch.records].map((record) => ({
      id: String(record.id),
      key: record.key,
      payload: Buffer.from(record.payload).toString('base64'),
    }))
    return { records }
  },
  detach: async () => {
    const { clean } = await consumer.stop({ timeoutMs })
    waiting = undefined
    return { clean }
  },
  close: async () => void (await client.close({ timeoutMs })),
}

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...rest } = JSON.parse(line)
  let answer
  try {
    answer = { ok: (await commands[name](rest)) ?? {} }
  } catch (error) {
    if (!(error instanceof HStreamError)) throw error
    const { kind, code, mayHaveBeenApplied, message } = error
    answer = { error: { kind, code, may_have_been_applied: mayHaveBeenApplied, message } }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
}
