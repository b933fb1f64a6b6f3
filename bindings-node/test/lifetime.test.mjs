// Opening and closing: twice, too late, in vain, and around the end of the process.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { after, before, test } from 'node:test'
import { Worker } from 'node:worker_threads'

import { connect } from '../dist/index.js'
import { startServer } from './server.mjs'

const entry = new URL('../dist/index.js', import.meta.url).pathname
let server

before(async () => {
  server = await startServer()
})
after(() => server?.stop())

/** Runs a script in a process of its own; it must end by itself. */
async function script(body) {
  const source = `const { connect } = require(${JSON.stringify(entry)});
    const url = ${JSON.stringify(server.url)};
    (async () => { ${body} })().catch((error) => { console.error(error); process.exit(70) })`
  const child = spawn(process.execPath, ['-e', source], { stdio: ['ignore', 'pipe', 'pipe'], timeout: 20_000 })
  let output = ''
  child.stdout.on('data', (data) => (output += data))
  child.stderr.on('data', (data) => (output += data))
  const [code, signal] = await new Promise((resolve) => child.on('close', (...end) => resolve(end)))
  return { code, signal, output }
}

test('closing twice is fine and everything after it is a closed error', async () => {
  const client = await connect(server.url)
  await client.createStream('closing')
  await client.createSubscription('closing', 'closing', { offset: 'earliest' })
  const producer = await client.producer('closing')
  const consumer = await client.consumer('closing')
  const waiting = consumer.nextBatch()
  const report = await producer.close()
  assert.deepEqual(await producer.close(), report)
  await assert.rejects(producer.append('late'), { name: 'ClosedError', kind: 'closed' })
  await assert.rejects(producer.appendMany(['late']), { kind: 'closed' })
  const other = await client.producer('closing')
  await client.close()
  await client.close()
  assert.equal(await waiting, null, 'a waiting consumer ends with its client')
  await assert.rejects(other.append('late'), { kind: 'closed' })
  await assert.rejects(client.listStreams(), { kind: 'closed' })
  await assert.rejects(client.producer('closing'), { kind: 'closed' })
  await assert.rejects(client.consumer('closing'), { kind: 'closed' })
})

test('records appended before close are stored', async () => {
  const client = await connect(server.url)
  await client.createStream('before-close')
  const producer = await client.producer('before-close', { batchMaxAgeMs: 60_000 })
  const append = producer.append('last')
  const report = await producer.close()
  assert.deepEqual(report, { acknowledged: 1, failed: 0, unresolved: 0 })
  assert.equal(typeof (await append).batchId, 'bigint')
  await client.close()
})

test('a server that cannot be reached is unavailable, within the connect timeout', async () => {
  const closed = createServer()
  await new Promise((resolve) => closed.listen(0, '127.0.0.1', resolve))
  const { port } = closed.address()
  await new Promise((resolve) => closed.close(resolve))
  const begin = Date.now()
  await assert.rejects(connect(`hstream://127.0.0.1:${port}`, { connectTimeoutMs: 1_000 }), (error) => {
    assert.equal(error.name, 'UnavailableError')
    assert.match(error.message, new RegExp(`127\\.0\\.0\\.1:${port}`))
    return true
  })
  assert.ok(Date.now() - begin < 10_000)
})

test('connecting can be aborted', async () => {
  const silent = createServer()
  await new Promise((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const sockets = []
  silent.on('connection', (socket) => sockets.push(socket))
  const url = `hstream://127.0.0.1:${silent.address().port}`
  const abort = new AbortController()
  const attempt = connect(url, { connectTimeoutMs: 60_000, signal: abort.signal })
  abort.abort()
  await assert.rejects(attempt, { name: 'CancelledError' })
  await assert.rejects(connect(url, { signal: AbortSignal.abort() }), { name: 'CancelledError' })
  for (const socket of sockets) socket.destroy()
  silent.close()
})

test('a wrong url is one clear sentence', async () => {
  await assert.rejects(connect('ftp://example'), { name: 'InvalidArgumentError' })
  await assert.rejects(connect(''), { name: 'InvalidArgumentError' })
})

test('a process ends by itself with a client closed or just left', async () => {
  const body = `const client = await connect(url); await client.echo('x');`
  for (const end of ['await client.close()', '']) {
    const { code, output } = await script(`${body} ${end}`)
    assert.equal(code, 0, output)
  }
})

test('process.exit with appends and a consumer in flight is clean', async () => {
  const { code, signal, output } = await script(`
    const client = await connect(url);
    const name = 'exit-' + process.pid;
    await client.createStream(name);
    await client.createSubscription(name, name);
    const producer = await client.producer(name, { batchMaxAgeMs: 1 });
    const consumer = await client.consumer(name);
    consumer.nextBatch().catch(() => {});
    for (let n = 0; n < 20000; n++) producer.append('x'.repeat(100)).catch(() => {});
    setTimeout(() => process.exit(7), 20);`)
  assert.deepEqual([code, signal], [7, null], output)
})

test('when the server dies every promise settles and closing returns in time', async () => {
  const doomed = await startServer()
  try {
    const client = await connect(doomed.url, { requestTimeoutMs: 500 })
    await client.createStream('doomed')
    await client.createSubscription('doomed', 'doomed')
    const consumer = await client.consumer('doomed')
    const waiting = consumer.nextBatch()
    const options = { batchMaxAgeMs: 1, deliveryTimeoutMs: 1_500, flowControlRecords: 500 }
    const producer = await client.producer('doomed', options)
    await producer.append('before')
    assert.equal((await waiting).length, 1)
    await doomed.stop()
    const late = consumer.nextBatch()
    const results = await Promise.allSettled(Array.from({ length: 3_000 }, () => producer.append('after')))
    for (const { status, reason } of results) {
      assert.equal(status, 'rejected')
      assert.ok(['timeout', 'unavailable', 'outcome_unknown'].includes(reason.kind), reason.message)
    }
    assert.deepEqual(await producer.close({ timeoutMs: 2_000 }), { acknowledged: 1, failed: 3_000, unresolved: 0 })
    assert.equal((await consumer.stop({ timeoutMs: 2_000 })).unsentAcks, 0)
    assert.equal(await late, null)
    await client.close({ timeoutMs: 2_000 })
  } finally {
    await doomed.stop()
  }
})

test('worker threads have clients of their own and may be terminated', async () => {
  const source = `const { parentPort, workerData } = require('node:worker_threads');
    const { connect } = require(workerData.entry);
    (async () => {
      const client = await connect(workerData.url);
      parentPort.postMessage(await client.echo('from a worker'));
      const stream = 'worker-' + workerData.number;
      await client.createStream(stream);
      const producer = await client.producer(stream, { batchMaxAgeMs: 1 });
      for (;;) await producer.append('x');
    })()`
  const client = await connect(server.url)
  for (let number = 0; number < 3; number += 1) {
    const worker = new Worker(source, { eval: true, workerData: { entry, url: server.url, number } })
    const answer = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
    assert.equal(answer, 'from a worker')
    await worker.terminate()
  }
  assert.equal(await client.echo('still here'), 'still here')
  await client.close()
})
