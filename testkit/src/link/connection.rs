//! One connection through a link.

use super::{Conditions, Counters, Ending, Flow, Way};
use bytes::{Buf as _, Bytes};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// Most bytes taken from a socket at once.
const PIECE: usize = 16 * 1024;
/// Pieces of one direction under way.
const PIECES: usize = 32;
/// A throttled direction writes this often.
const TICK: Duration = Duration::from_millis(20);

/// A piece and when it arrives.
type Parcel = (Instant, Bytes);

/// Carries a connection to its end.
pub(super) async fn carry(
    mut client: TcpStream,
    mut conditions: watch::Receiver<Conditions>,
    counters: Arc<Counters>,
    seed: u64,
) {
    let cuts = conditions.borrow().cuts;
    let cut = cut(conditions.clone(), cuts);
    tokio::pin!(cut);
    let thaw = async { conditions.wait_for(|now| !now.frozen).await.map(|now| now.target) };
    let target = tokio::select! {
        // Accepted, and nothing comes of it until the link resumes.
        Ok(target) = thaw => target,
        ending = &mut cut => {
            count(&counters.broken);
            if ending == Ending::Silence {
                swallow(&mut client).await;
            }
            finish(&client, ending);
            return;
        }
    };
    let Ok(mut server) = TcpStream::connect(target).await else {
        finish(&client, Ending::Reset);
        return;
    };
    // Latency is what the link says, not what the kernel adds.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ending = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = Pump {
            way: Way::ToServer,
            conditions: conditions.clone(),
            arrived: &counters.to_server,
            broken: &counters.broken,
        };
        let down = Pump { way: Way::ToClient, arrived: &counters.to_client, conditions, ..up.clone() };
        tokio::select! {
            ending = &mut cut => {
                count(&counters.broken);
                ending
            }
            ended = async {
                tokio::try_join!(
                    up.run(from_client, to_server, StdRng::seed_from_u64(seed)),
                    down.run(from_server, to_client, StdRng::seed_from_u64(seed + 1)),
                )
            } => ended.err().unwrap_or(Ending::Close),
        }
    };
    finish(&server, ending);
    drop(server);
    if ending == Ending::Silence {
        swallow(&mut client).await;
    }
    finish(&client, ending);
}

/// Takes whatever comes until the peer gives up by itself.
async fn swallow(client: &mut TcpStream) {
    let mut buffer = vec![0; PIECE];
    while let Ok(1..) = client.read(&mut buffer).await {}
}

fn finish(socket: &TcpStream, ending: Ending) {
    if ending != Ending::Close {
        // The socket is about to be dropped, which then sends RST instead of FIN.
        let _ = socket.set_zero_linger();
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Resolves with the next cut after the first `seen`, or when the link is gone.
async fn cut(mut conditions: watch::Receiver<Conditions>, seen: u64) -> Ending {
    conditions.wait_for(|now| now.cuts > seen).await.map_or(Ending::Reset, |now| now.cut)
}

/// One direction.
#[derive(Debug, Clone)]
struct Pump<'a> {
    way: Way,
    conditions: watch::Receiver<Conditions>,
    arrived: &'a AtomicU64,
    broken: &'a AtomicU64,
}

impl Pump<'_> {
    /// Ok after an end that was passed on; an error is how the whole connection ends.
    async fn run(self, from: ReadHalf<'_>, to: WriteHalf<'_>, random: StdRng) -> Result<(), Ending> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let writer = self.clone();
        tokio::try_join!(self.take(from, sender, random), writer.give(to, receiver)).map(|_| ())
    }

    async fn thawed(&mut self) -> Result<Flow, Ending> {
        let way = self.way;
        let now = self.conditions.wait_for(|now| !now.frozen).await;
        now.map(|now| now.flow(way)).map_err(|_| Ending::Reset)
    }

    /// Reads pieces and says when each arrives.
    async fn take(
        mut self,
        mut from: ReadHalf<'_>,
        sender: mpsc::Sender<Parcel>,
        mut random: StdRng,
    ) -> Result<(), Ending> {
        let mut buffer = vec![0; PIECE];
        let mut latest = Instant::now();
        loop {
            self.thawed().await?;
            let Ok(permit) = sender.reserve().await else { return Ok(()) };
            let length = from.read(&mut buffer).await.map_err(|_| Ending::Reset)?;
            let Some(piece) = buffer.get(..length).filter(|piece| !piece.is_empty()) else { return Ok(()) };
            let flow = self.conditions.borrow().flow(self.way);
            let delay = flow.latency + flow.jitter.mul_f64(random.random::<f64>());
            // Bytes never overtake each other.
            latest = latest.max(Instant::now() + delay);
            permit.send((latest, Bytes::copy_from_slice(piece)));
        }
    }

    /// Writes pieces when they are due, as the direction's flow allows.
    async fn give(
        mut self,
        mut to: WriteHalf<'_>,
        mut receiver: mpsc::Receiver<Parcel>,
    ) -> Result<(), Ending> {
        let mut swallowed = false;
        let mut budget = Budget::default();
        let mut free_at = Instant::now();
        let mut ended = false;
        loop {
            let (due, mut piece) = tokio::select! {
                parcel = receiver.recv(), if !ended => parcel.unwrap_or_else(|| {
                    ended = true;
                    (Instant::now(), Bytes::new())
                }),
                changed = self.conditions.changed() => {
                    let flow = self.conditions.borrow_and_update().flow(self.way);
                    if changed.is_err() || (swallowed && !flow.swallow) {
                        count(self.broken);
                        return Err(Ending::Reset);
                    }
                    continue;
                }
            };
            sleep_until(due).await;
            loop {
                let flow = self.thawed().await?;
                if flow.swallow {
                    swallowed = true;
                    break;
                }
                if swallowed {
                    count(self.broken);
                    return Err(Ending::Reset);
                }
                if piece.is_empty() {
                    if ended {
                        return to.shutdown().await.map_err(|_| Ending::Reset);
                    }
                    break;
                }
                let mut length = piece.len();
                if let Some((after, ending)) = flow.ends_after {
                    let left = budget.left(after, ending);
                    if left == 0 {
                        count(self.broken);
                        return Err(ending);
                    }
                    length = length.min(left as usize);
                }
                if let Some(rate) = flow.bytes_per_second {
                    sleep_until(free_at).await;
                    length = length.min(((rate as f64 * TICK.as_secs_f64()) as usize).max(1));
                    free_at = Instant::now() + Duration::from_secs_f64(length as f64 / rate.max(1) as f64);
                }
                to.write_all(&piece[..length]).await.map_err(|_| Ending::Reset)?;
                piece.advance(length);
                budget.carried += length as u64;
                self.arrived.fetch_add(length as u64, Ordering::Relaxed);
            }
        }
    }
}

/// Bytes carried since the present limit was set.
#[derive(Debug, Default)]
struct Budget {
    limit: Option<(u64, Ending)>,
    carried: u64,
}

impl Budget {
    fn left(&mut self, after: u64, ending: Ending) -> u64 {
        if self.limit != Some((after, ending)) {
            *self = Budget { limit: Some((after, ending)), carried: 0 };
        }
        after.saturating_sub(self.carried)
    }
}
