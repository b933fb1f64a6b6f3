//! A real `hstream-server` process.

use crate::{
    Store, leash,
    signal::{pause, signal},
};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// How long a server may take until it is ready, recovery included.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Log lines kept for error messages.
const KEPT_LINES: usize = 20;

/// What a server process is started with.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The executable; see [`server_binary`].
    pub binary: PathBuf,
    /// Data directory; starting again on the same one recovers its data.
    pub data_dir: PathBuf,
    /// What it stands on; by default what `HSTREAM_TEST_STORE` says.
    pub store: Store,
    /// Client port; 0 takes a free one.
    pub port: u16,
    /// Port for other nodes; 0 takes a free one.
    pub internal_port: u16,
    /// Nodes in the process; with several of them ports rise in steps of 10.
    pub nodes: u32,
    /// Further flags.
    pub flags: Vec<String>,
    /// A file that what it logs is added to; by default nobody keeps it.
    pub log: Option<PathBuf>,
}

impl ServerOptions {
    /// The server of this build, a free port.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        ServerOptions {
            binary: server_binary(),
            data_dir: data_dir.into(),
            store: Store::default(),
            port: 0,
            internal_port: 0,
            nodes: 1,
            flags: Vec::new(),
            log: None,
        }
    }
}

/// A running server, killed on drop and whenever this process ends.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    /// Of each node; the first one is there.
    ports: Vec<u16>,
}

/// Path of the `hstream-server` executable: `HSTREAM_SERVER_BINARY`, or the one in the target directory that
/// the calling executable was built into.
pub fn server_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("HSTREAM_SERVER_BINARY") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap_or_default();
    // target/debug/hstream-demo, target/debug/deps/test-…: the server lies in one of the folders above.
    own.ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join("hstream-server"))
        .find(|path| path.is_file())
        .unwrap_or_else(|| Path::new("target/debug/hstream-server").to_owned())
}

impl ServerProcess {
    /// Starts a server and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, ends early or is not ready in time; with its last log lines.
    pub fn start(options: &ServerOptions) -> Result<ServerProcess> {
        let mut command = Command::new(&options.binary);
        match options.store.url(&options.data_dir)? {
            Some(url) => command.arg("--store").arg(url),
            None => command.arg("--data-dir").arg(&options.data_dir),
        };
        command
            .args(["--bind-address", "127.0.0.1", "--internal-port"])
            .arg(options.internal_port.to_string())
            .arg("--port")
            .arg(options.port.to_string())
            .args(&options.flags);
        if options.nodes > 1 {
            command.args(["--nodes", &options.nodes.to_string()]);
        }
        ServerProcess::start_nodes(command, options.nodes as usize, options.log.as_deref())
    }

    /// Starts a server that a test has put together by itself, for example the test executable again with another
    /// environment. It says that it is ready as `hstream-server` does, on stderr: see [`announce_ready`].
    ///
    /// # Errors
    /// As [`ServerProcess::start`].
    pub fn start_command(command: Command) -> Result<ServerProcess> {
        ServerProcess::start_nodes(command, 1, None)
    }

    fn start_nodes(mut command: Command, nodes: usize, log: Option<&Path>) -> Result<ServerProcess> {
        let mut log = log.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        leash::hold(child.id());
        let stderr = child.stderr.take().context("no stderr")?;
        let (sender, lines) = mpsc::sync_channel::<String>(1024);
        // Keeps reading for the life of the process so that the server never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(log) = &mut log {
                    let _ = writeln!(log, "{line}");
                }
                // Nobody listens after start-up; lines are then dropped.
                let _ = sender.try_send(line);
            }
        });
        match await_ready(&lines, nodes) {
            Ok(ports) => Ok(ServerProcess { child, ports }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// The client port of the first node.
    pub fn port(&self) -> u16 {
        self.ports.first().copied().unwrap_or_default()
    }

    /// The client ports of all nodes, lowest first.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// URL for clients.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("hstream://{}", addresses.join(","))
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGSTOP: it stands still, its sockets stay open.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&self) -> Result<()> {
        pause(self.child.id())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&self) -> Result<()> {
        signal(self.child.id(), "CONT")
    }

    /// SIGKILL; nothing in the server gets to run any more.
    ///
    /// # Errors
    /// When the process cannot be killed or awaited.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        leash::release(self.child.id());
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    leash::release(child.id());
    let _ = child.wait();
}

/// Says on stderr, as `hstream-server` does, that the server of this process is ready on `port`.
pub fn announce_ready(port: u16) {
    eprintln!("Server is started on port {port}\nCluster is ready!");
}

/// Waits until so many nodes are ready; their ports.
fn await_ready(lines: &mpsc::Receiver<String>, nodes: usize) -> Result<Vec<u16>> {
    let end = Instant::now() + READY_WITHIN;
    let mut seen: Vec<String> = Vec::new();
    let (mut ports, mut ready) = (Vec::new(), 0);
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                ports.extend(started_port(&line));
                ready += usize::from(line.contains("Cluster is ready!"));
                if ready >= nodes {
                    ensure!(ports.len() >= nodes, "the server said it is ready but not on which port");
                    ports.sort_unstable();
                    return Ok(ports);
                }
                if seen.len() == KEPT_LINES {
                    seen.remove(0);
                }
                seen.push(line);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("the server was not ready within {READY_WITHIN:?}; it said:\n{}", seen.join("\n"))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                bail!("the server ended before it was ready; it said:\n{}", seen.join("\n"))
            }
        }
    }
}

fn started_port(line: &str) -> Option<u16> {
    let rest = line.split("Server is started on port ").nth(1)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_read_from_the_marker() {
        let line = "[INFO][..] Server is started on port 41233, waiting for cluster to get ready";
        assert_eq!(started_port(line), Some(41233));
        assert_eq!(started_port("something else"), None);
    }

    #[test]
    fn a_program_that_ends_early_is_an_error_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let options = ServerOptions { binary: "/bin/false".into(), ..ServerOptions::new(dir.path()) };
        let error = ServerProcess::start(&options).unwrap_err();
        assert!(error.to_string().contains("ended before it was ready"), "{error}");
    }
}
