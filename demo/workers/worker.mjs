// The Node worker of the demo; see `demo/src/worker.rs` for arguments and output.

import { readFile } from 'node:fs/promises'
import { performance } from 'node:perf_hooks'
import { crc32 } from 'node:zlib'
import { connect } from '../../bindings-node/dist/index.js'

const CHUNK = 1000
const IDLE_MS = 30_000

const say = (event) => process.stdout.write(JSON.stringify(event) + '\n')
const seconds = (began) => (performance.now() - began) / 1000

async function append(url, stream, path) {
  const began = performance.now()
  const lines = (await readFile(path, 'utf8')).split('\n').filter((line) => line !== '')
  const client = await connect(url)
  const producer = await client.producer(stream, { batchMaxRecords: 1000 })
  let rows = 0
  for (let start = 0; start < lines.length; start += CHUNK) {
    const chunk = lines.slice(start, start + CHUNK)
    const keys = chunk.map((line) => line.slice(0, line.indexOf('\t')))
    const payloads = chunk.map((line) => line.slice(line.indexOf('\t') + 1))
    rows += (await producer.appendMany(payloads, keys)).length
    say({ event: 'progress', rows })
  }
  await producer.close()
  await client.close()
  say({ event: 'done', rows, seconds: seconds(began) })
}

async function read(url, subscription, expected) {
  const began = performance.now()
  const client = await connect(url)
  const consumer = await client.consumer(subscription)
  // A reader that receives nothing for this long gives up and reports what it has.
  let idle = setTimeout(() => consumer.stop(), IDLE_MS)
  const seen = new Set()
  const last = new Map()
  let rows = 0
  let violations = 0
  let checksum = 0n
  for await (const batch of consumer) {
    idle.refresh()
    for (const record of batch.records) {
      const row = JSON.parse(record.payload)
      rows += 1
      checksum = BigInt.asUintN(64, checksum + BigInt(crc32(record.payload)))
      seen.add(row.seq)
      const place = `${row.producer}\t${record.key}`
      if (row.seq <= (last.get(place) ?? -1)) violations += 1
      last.set(place, row.seq)
    }
    batch.ack()
    say({ event: 'progress', rows })
    if (seen.size >= expected) break
  }
  clearTimeout(idle)
  await consumer.stop()
  await client.close()
  say({
    event: 'done',
    rows,
    violations,
    duplicates: rows - seen.size,
    checksum: checksum.toString(16).padStart(16, '0'),
    seconds: seconds(began),
  })
}

const [, , phase, url, name, last] = process.argv
if (phase === 'append') await append(url, name, last)
else await read(url, name, Number(last))
