//! One NATS server, or a cluster of them.

use super::{NatsOptions, nats_binary, peer::Peer, ports::Ports};
use crate::leash;
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    fmt,
    path::Path,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long peers may take until all of them lead or follow.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Starts on other ports when somebody was quicker.
const TRIES: usize = 5;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Running NATS servers. Peers are counted from 0.
///
/// All of it can be called from many tasks. Calls return soon, but those that wait (`start`, `stop`,
/// `wait_until_ready`) block the thread; [`Nats::ready`] waits in async code.
pub struct Nats {
    shared: Arc<Shared>,
}

struct Shared {
    // Peers end before their folder does.
    peers: Vec<Mutex<Peer>>,
    options: NatsOptions,
    ports: Vec<Ports>,
    folder: TempDir,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Nats {
    /// Starts servers and waits until they are ready.
    ///
    /// # Errors
    /// When there is no executable, when a server ends early or when they are not ready in time; with their last log lines.
    pub fn start(options: NatsOptions) -> Result<Nats> {
        ensure!(options.peers > 0, "a cluster of no peers");
        let mut tries = 0;
        loop {
            tries += 1;
            let nats = Nats::launch(options.clone())?;
            match nats.wait_until_ready() {
                Ok(()) => return Ok(nats),
                // Between our look at a port and the server's, somebody else has taken it.
                Err(error) if tries < TRIES && error.to_string().contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// One lone server that everything in this process may share: each user takes a namespace of its own.
    ///
    /// # Errors
    /// As [`Nats::start`]; the same one every time.
    pub fn shared() -> Result<&'static Nats> {
        static NATS: LazyLock<Result<Nats>> = LazyLock::new(|| Nats::start(NatsOptions::for_nodes()));
        NATS.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))
    }

    fn launch(options: NatsOptions) -> Result<Nats> {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => nats_binary()?,
        };
        let folder = tempfile::Builder::new().prefix("nats-").tempdir()?;
        leash::remove_at_end(folder.path());
        // A peer that meets somebody else's cluster on one of its ports does not join it.
        let cluster = format!("testkit-{}-{}", std::process::id(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let ports: Vec<Ports> = (0..options.peers).map(|_| Ports::pick()).collect();
        let mut peers = Vec::new();
        for (number, own) in ports.iter().enumerate() {
            let name = format!("peer-{number}");
            let file = |suffix: &str| folder.path().join(format!("{name}{suffix}"));
            std::fs::write(file(".conf"), options.file(&name, &cluster, own, &ports, &file("")))?;
            let mut peer = Peer::new(name.clone(), *own, binary.clone(), file(".conf"), file(".log"));
            peer.launch()?;
            peers.push(Mutex::new(peer));
        }
        Ok(Nats { shared: Arc::new(Shared { peers, options, ports, folder }) })
    }

    /// How many peers there are, running or not.
    pub fn peers(&self) -> usize {
        self.shared.peers.len()
    }

    /// `nats://127.0.0.1:PORT` of each peer, or `tls://`.
    pub fn urls(&self) -> Vec<String> {
        let scheme = self.scheme();
        self.shared.ports.iter().map(|ports| format!("{scheme}://127.0.0.1:{}", ports.client)).collect()
    }

    /// What `hstream-server --store` takes: all peers, the user and the password if there are some, and a namespace.
    pub fn store_url(&self, namespace: &str) -> String {
        let user = self.shared.options.user.as_ref();
        let user = user.map(|(user, password)| format!("{}:{}@", escaped(user), escaped(password)));
        let user = user.unwrap_or_default();
        let peers: Vec<_> =
            self.shared.ports.iter().map(|ports| format!("127.0.0.1:{}", ports.client)).collect();
        format!("{}://{user}{}/{namespace}", self.scheme(), peers.join(","))
    }

    fn scheme(&self) -> &'static str {
        if self.shared.options.tls.is_some() { "tls" } else { "nats" }
    }

    /// Client port of a peer.
    ///
    /// # Panics
    /// When there is no such peer.
    pub fn port(&self, peer: usize) -> u16 {
        self.shared.ports[peer].client
    }

    /// Where a peer keeps what it stores.
    pub fn data(&self, peer: usize) -> std::path::PathBuf {
        self.folder().join(format!("peer-{peer}"))
    }

    /// Configurations, logs and data of all peers.
    pub fn folder(&self) -> &Path {
        self.shared.folder.path()
    }

    /// SIGKILL, running or paused.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, peer: usize) -> Result<()> {
        self.shared.peer(peer)?.kill()
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not run, or does not stop in time.
    pub fn stop(&self, peer: usize) -> Result<()> {
        self.shared.peer(peer)?.stop()
    }

    /// Starts a peer again that was killed or stopped, on the same ports and data, and does not wait for it.
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub fn restart(&self, peer: usize) -> Result<()> {
        self.shared.peer(peer)?.launch()
    }

    /// SIGSTOP: its connections stay open, and nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, peer: usize) -> Result<()> {
        self.shared.peer(peer)?.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, peer: usize) -> Result<()> {
        self.shared.peer(peer)?.resume()
    }

    /// Waits until all peers that run (and are not paused) agree about who leads the cluster, until every stream has a
    /// leader among them, and until what each of them holds is up to date.
    ///
    /// # Errors
    /// When a peer ends by itself, or when it takes too long; says what is missing.
    pub fn wait_until_ready(&self) -> Result<()> {
        self.shared.wait_until_ready()
    }

    /// As [`Nats::wait_until_ready`], for async code.
    ///
    /// # Errors
    /// The same.
    pub async fn ready(&self) -> Result<()> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || shared.wait_until_ready()).await?
    }

    /// The peer that leads the cluster as those that run see it; nobody leads a lone server.
    ///
    /// # Errors
    /// When they see nobody, or not the same one.
    pub fn leader(&self) -> Result<usize> {
        self.shared.leader()
    }

    /// The peer that leads a stream.
    ///
    /// # Errors
    /// When nobody leads it, or nobody knows of it.
    pub fn leader_of(&self, stream: &str) -> Result<usize> {
        for peer in self.shared.running() {
            let leaders = peer.leaders()?;
            let of = leaders.streams.into_iter().find(|(name, _)| name == stream);
            if let Some((_, leader)) = of {
                return self.shared.number(&leader.with_context(|| format!("nobody leads {stream}"))?);
            }
        }
        bail!("no peer that runs holds {stream}")
    }

    /// The last lines of a peer's log.
    ///
    /// # Errors
    /// When there is no such peer.
    pub fn last_words(&self, peer: usize) -> Result<String> {
        Ok(self.shared.peer(peer)?.last_words())
    }
}

impl Shared {
    fn peer(&self, number: usize) -> Result<MutexGuard<'_, Peer>> {
        let peer = self.peers.get(number).with_context(|| format!("there is no peer {number}"))?;
        Ok(peer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What those that run say.
    fn running(&self) -> Vec<super::monitor::Monitor> {
        let peers = self.peers.iter().map(|peer| peer.lock().unwrap_or_else(PoisonError::into_inner));
        peers.filter(|peer| peer.runs()).map(|peer| peer.monitor.clone()).collect()
    }

    fn number(&self, name: &str) -> Result<usize> {
        let of = |peer: &Mutex<Peer>| peer.lock().unwrap_or_else(PoisonError::into_inner).name == name;
        self.peers.iter().position(of).with_context(|| format!("nobody is called {name}"))
    }

    fn wait_until_ready(&self) -> Result<()> {
        let end = Instant::now() + READY_WITHIN;
        loop {
            for peer in 0..self.peers.len() {
                self.peer(peer)?.check()?;
            }
            let Err(missing) = self.look() else { return Ok(()) };
            if Instant::now() > end {
                let words: Vec<_> = self
                    .peers
                    .iter()
                    .map(|peer| peer.lock().unwrap_or_else(PoisonError::into_inner).last_words())
                    .collect();
                bail!(
                    "NATS was not ready within {READY_WITHIN:?}: {missing:#}; it said:\n{}",
                    words.join("\n--\n")
                );
            }
            std::thread::sleep(LOOK);
        }
    }

    /// An error with what is missing.
    fn look(&self) -> Result<()> {
        for number in 0..self.peers.len() {
            let (runs, monitor, name, client) = {
                let peer = self.peer(number)?;
                (peer.runs(), peer.monitor.clone(), peer.name.clone(), peer.ports.client)
            };
            if !runs {
                continue;
            }
            monitor.healthy().with_context(|| format!("{name} is not well"))?;
            std::net::TcpStream::connect(("127.0.0.1", client))
                .with_context(|| format!("{name} takes no clients"))?;
            if self.options.jetstream && self.peers.len() > 1 {
                for (stream, leader) in monitor.leaders()?.streams {
                    let leader = leader.with_context(|| format!("{name} knows no leader of {stream}"))?;
                    let number = self.number(&leader)?;
                    ensure!(self.peer(number)?.runs(), "{name} takes {leader} for the leader of {stream}");
                }
            }
        }
        if self.options.jetstream && self.peers.len() > 1 {
            let leader = self.leader()?;
            ensure!(self.peer(leader)?.runs(), "the leader is away");
        }
        Ok(())
    }

    fn leader(&self) -> Result<usize> {
        let mut agreed: Option<String> = None;
        for monitor in self.running() {
            let leader = monitor.leaders()?.meta.context("a peer knows no leader")?;
            ensure!(agreed.as_ref().is_none_or(|agreed| *agreed == leader), "peers know different leaders");
            agreed = Some(leader);
        }
        self.number(&agreed.context("no peer runs")?)
    }
}

/// As a part of a URL.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}
