// A real server for the tests: started on free ports with a directory of its own, killed at the end.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const STARTED = /Server is started on port (\d+)/
const START_TIMEOUT_MS = 30_000

function binary() {
  if (process.env.HSTREAM_SERVER) return process.env.HSTREAM_SERVER
  const here = path.dirname(fileURLToPath(import.meta.url))
  const metadata = spawnSync('cargo', ['metadata', '--format-version', '1', '--no-deps', '--offline'], {
    cwd: here,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  })
  const file = path.join(JSON.parse(metadata.stdout).target_directory, 'debug', 'hstream-server')
  if (!existsSync(file)) throw new Error(`${file} does not exist: cargo build -p hstream-server`)
  return file
}

/** Starts a server; resolves when it answers on `url`. */
export async function startServer() {
  const directory = mkdtempSync(path.join(tmpdir(), 'hstreamdb-node-'))
  const child = spawn(binary(), ['--port', '0', '--internal-port', '0', '--data-dir', directory], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  // A test that dies takes its server along.
  const kill = () => child.kill('SIGKILL')
  process.on('exit', kill)
  let log = ''
  const port = await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`the server did not start:\n${log}`)), START_TIMEOUT_MS)
    const read = (text) => {
      log += text
      const match = STARTED.exec(log)
      if (match) {
        clearTimeout(timer)
        resolve(Number(match[1]))
      }
    }
    child.stdout.setEncoding('utf8').on('data', read)
    child.stderr.setEncoding('utf8').on('data', read)
    child.on('exit', (code, signal) => {
      clearTimeout(timer)
      reject(new Error(`the server ended (${code ?? signal}):\n${log}`))
    })
  })
  return {
    url: `hstream://127.0.0.1:${port}`,
    log: () => log,
    async stop() {
      process.off('exit', kill)
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGKILL')
        await once(child, 'exit')
      }
      rmSync(directory, { recursive: true, force: true })
    },
  }
}
