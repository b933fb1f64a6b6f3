// The surface against the core's tables.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { test } from 'node:test'

import * as imported from '../dist/index.js'
const require = createRequire(import.meta.url)
const { binding } = require('../dist/native.js')
const { errorClasses } = require('../dist/errors.js')

test('every error kind of the core has its class, and no class is without a kind', () => {
  const core = Object.fromEntries(binding.errorKinds().map((row) => [row.name, row.className]))
  const ours = Object.fromEntries(Object.entries(errorClasses).map(([kind, type]) => [kind, type.name]))
  assert.deepEqual(ours, core)
  for (const name of Object.values(core)) assert.equal(typeof imported[name], 'function', `${name} is exported`)
})

test('every option has a property that the core takes under its camel-case name', async () => {
  const declared = readFileSync(new URL('../dist/options.d.ts', import.meta.url), 'utf8')
  for (const name of ['requestTimeoutMs', 'shardCount', 'ackTimeoutSecs', 'whenFull', 'ackMaxAgeMs', 'maxBatches']) {
    assert.match(declared, new RegExp(`^    ${name}\\?: `, 'm'))
  }
  // Refused for its range, so the name was understood.
  await assert.rejects(imported.connect('hstream://127.0.0.1:1', { requestTimeoutMs: -1 }), /request_timeout_ms/)
  await assert.rejects(imported.connect('hstream://127.0.0.1:1', { requestTimeout: 1 }), /unknown option/)
})

test('import and require give the same classes', () => {
  const required = require('../dist/index.js')
  assert.equal(required.HStreamError, imported.HStreamError)
  assert.equal(required.connect, imported.connect)
})

test('the versions of package and core agree', () => {
  assert.equal(require('../package.json').version, binding.coreVersion())
})

test('record ids are ordered texts and refuse other texts', () => {
  const id = imported.RecordId.parse('18446744073709551615-1000000000000000000-7')
  assert.equal(id.shardId, 18446744073709551615n)
  assert.equal(JSON.stringify({ id }), '{"id":"18446744073709551615-1000000000000000000-7"}')
  for (const wrong of ['', '1-2', '1-2-x', '1-2-3-4']) {
    assert.throws(() => imported.RecordId.parse(wrong), { name: 'InvalidArgumentError' })
  }
})
