// Builds the package: native half with cargo, its file next to package.json, TypeScript to dist/.
// ts/options.ts is written from the core's own table of options. --release optimises.
import { spawnSync } from 'node:child_process'
import { copyFileSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { optionsSource } from './options-source.mjs'

const here = path.dirname(fileURLToPath(import.meta.url))
const release = process.argv.includes('--release')
const require = createRequire(import.meta.url)

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: here, stdio: 'inherit' })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}

run('cargo', ['build', '-p', 'hstreamdb-node', ...(release ? ['--release'] : [])])
const metadata = spawnSync('cargo', ['metadata', '--format-version', '1', '--no-deps', '--offline'], {
  cwd: here,
  encoding: 'utf8',
  maxBuffer: 64 << 20,
})
if (metadata.status !== 0) throw new Error(`cargo metadata: ${metadata.stderr}`)
const library = { linux: 'libhstreamdb_node.so', darwin: 'libhstreamdb_node.dylib', win32: 'hstreamdb_node.dll' }
const built = path.join(
  JSON.parse(metadata.stdout).target_directory,
  release ? 'release' : 'debug',
  library[process.platform],
)
const target = path.join(here, `hstreamdb.${process.platform}-${process.arch}.node`)
// By rename: a process that has the old file mapped keeps it.
copyFileSync(built, `${target}.new`)
renameSync(`${target}.new`, target)

writeFileSync(path.join(here, 'ts', 'options.ts'), optionsSource(require(target).optionRows()))
run(process.execPath, [require.resolve('typescript/bin/tsc'), '-p', path.join(here, 'tsconfig.json')])
