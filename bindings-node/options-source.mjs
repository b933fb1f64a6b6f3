// Writes the TypeScript interfaces of the options from the core's own table.

const INTERFACES = [
  ['client', 'ClientOptions', 'Options of `connect`.'],
  ['stream', 'StreamOptions', 'Options of `createStream`.'],
  ['subscription', 'SubscriptionOptions', 'Options of `createSubscription`.'],
  ['producer', 'ProducerOptions', 'Options of `client.producer`.'],
  ['consumer', 'ConsumerOptions', 'Options of `client.consumer`.'],
  ['reader', 'ReaderOptions', 'Options of the readers.'],
]
// Not options of an application.
const HIDDEN = new Set(['client.user_agent_lang', 'client.url'])
// Where TypeScript has a better type than the table.
const TYPES = { 'reader.from': 'Offset', 'reader.until': 'Offset' }

/** The text of ts/options.ts. */
export function optionsSource(rows) {
  const parts = [
    '/** Options, written by the build from the table of the core (core-client/src/options.rs). */',
    "import type { RecordId } from './record.js'",
    '',
    '/** A place in a stream: a record, its id as text, or the first record at or after a time (milliseconds since 1970). */',
    "export type Offset = 'earliest' | 'latest' | RecordId | Date | number | (string & {})",
  ]
  for (const [scope, name, doc] of INTERFACES) {
    parts.push('', `/** ${doc} */`, `export interface ${name} {`)
    for (const row of rows.filter((row) => row.scope === scope && !HIDDEN.has(`${scope}.${row.name}`))) {
      const facts = [row.unit && `Unit: ${row.unit}.`, row.default && `Default: ${row.default}.`]
      parts.push(`  /** ${[row.doc, ...facts].filter(Boolean).join(' ').replaceAll('*/', '* /')} */`)
      parts.push(`  ${camel(row.name)}?: ${TYPES[`${scope}.${row.name}`] ?? row.kind}`)
    }
    parts.push('}')
  }
  return parts.join('\n') + '\n'
}

function camel(name) {
  return name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase())
}
