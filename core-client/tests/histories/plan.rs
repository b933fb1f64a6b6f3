//! What a round does, drawn from its seed.

use hstream_testkit::{Ending, Way};
use hstreamdb::{Compression, WhenFull};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use std::{ops::RangeInclusive, time::Duration};

/// Where the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// In the test, on a disk in memory that fails and loses power.
    Disk,
    /// In a process of its own that is killed.
    Process,
}

#[derive(Debug)]
#[allow(dead_code, reason = "the seed is there to be shown")]
pub struct Plan {
    pub seed: u64,
    pub server: ServerKind,
    /// Whether the server has anything beyond the published protocol.
    pub capable: bool,
    pub shards: u32,
    /// How long faults happen.
    pub chaos: Duration,
    pub producers: Vec<ProducerPlan>,
    pub subscriptions: Vec<SubscriptionPlan>,
    /// Nothing happens to consumers, whose order is then checked.
    pub calm_consumers: bool,
    pub producer_link: Vec<Step<LinkFault>>,
    pub consumer_link: Vec<Step<LinkFault>>,
    pub reader_link: Vec<Step<LinkFault>>,
    pub server_faults: Vec<Step<ServerFault>>,
}

#[derive(Debug)]
pub struct ProducerPlan {
    pub batch_max_records: u32,
    pub batch_max_bytes: usize,
    pub batch_max_age: Duration,
    pub compression: Compression,
    pub max_inflight: usize,
    pub flow_records: usize,
    pub when_full: WhenFull,
    pub delivery_timeout: Duration,
    pub allow_duplicates: bool,
    /// Callers that append at the same time through clones.
    pub lanes: u32,
    /// Closed in the middle of it all, with little time.
    pub closes_early: bool,
}

#[derive(Debug)]
pub struct SubscriptionPlan {
    pub ack_timeout_secs: u32,
    pub redeliver_on_disconnect: bool,
    pub max_unacked_records: u32,
    pub members: u32,
    pub prefetch_batches: usize,
}

/// After a pause, something happens for a while.
#[derive(Debug, Clone, Copy)]
pub struct Step<F> {
    pub after: Duration,
    pub fault: F,
    pub lasting: Duration,
}

#[derive(Debug, Clone, Copy)]
pub enum LinkFault {
    Slow { latency: Duration, jitter: Duration },
    Throttled(u64),
    Cut(Ending),
    EndsAfter(Way, u64, Ending),
    HalfOpen(Way),
    BlackHole,
    Refused,
}

#[derive(Debug, Clone, Copy)]
pub enum ServerFault {
    LostReplies(u32),
    /// Appends arrive up to so many milliseconds late and out of order, also those that were given up.
    LateAppends(u32),
    CutAtTheServer,
    /// Without any cleanup; the time is how long it stays away.
    Killed,
    /// In order.
    Stopped,
    /// The next sync fails, after which the server takes nothing until it is started again.
    FailedSync,
    SlowSync,
    FullDisk,
}

impl Plan {
    pub fn draw(seed: u64, server: ServerKind, capable: bool) -> Plan {
        let random = &mut StdRng::seed_from_u64(seed);
        let chaos = millis(random, 1200..=2500);
        let calm_consumers = random.random_ratio(1, 4);
        let server_faults =
            steps(random, chaos, 100..=700, |random| ServerFault::draw(random, server, calm_consumers));
        Plan {
            seed,
            server,
            capable,
            shards: random.random_range(1..=4),
            chaos,
            producers: (0..random.random_range(1..=3)).map(|_| ProducerPlan::draw(random)).collect(),
            subscriptions: (0..random.random_range(1..=2))
                .map(|_| SubscriptionPlan::draw(random, calm_consumers, capable))
                .collect(),
            calm_consumers,
            producer_link: steps(random, chaos, 50..=500, link_fault),
            consumer_link: if calm_consumers {
                Vec::new()
            } else {
                steps(random, chaos, 100..=700, link_fault)
            },
            reader_link: steps(random, chaos, 100..=700, link_fault),
            server_faults,
        }
    }
}

impl ServerFault {
    fn draw(random: &mut StdRng, server: ServerKind, calm: bool) -> ServerFault {
        let lost = ServerFault::LostReplies(random.random_range(1..6));
        let late = ServerFault::LateAppends(random.random_range(20..1200));
        let mut choices = vec![lost, lost, late, late];
        if server == ServerKind::Disk {
            choices.extend([ServerFault::SlowSync, ServerFault::FullDisk]);
        }
        if !calm {
            choices.extend([ServerFault::Killed, ServerFault::Killed, ServerFault::Stopped]);
            choices.push(ServerFault::CutAtTheServer);
        }
        if server == ServerKind::Disk && !calm {
            choices.push(ServerFault::FailedSync);
        }
        *choices.choose(random).unwrap_or(&lost)
    }
}

impl ProducerPlan {
    fn draw(random: &mut StdRng) -> ProducerPlan {
        let compressions = [Compression::None, Compression::Gzip, Compression::Zstd];
        let when_full = match random.random_range(0..4) {
            0 => WhenFull::Fail,
            1 => WhenFull::WaitTimeout(millis(random, 1..=50)),
            _ => WhenFull::Wait,
        };
        ProducerPlan {
            batch_max_records: random.random_range(1..=30),
            batch_max_bytes: random.random_range(200..=20_000),
            batch_max_age: millis(random, 0..=20),
            compression: compressions.choose(random).copied().unwrap_or_default(),
            max_inflight: random.random_range(1..=10),
            flow_records: random.random_range(20..=600),
            when_full,
            delivery_timeout: if random.random() {
                millis(random, 100..=1000)
            } else {
                Duration::from_secs(30)
            },
            allow_duplicates: random.random_ratio(1, 3),
            lanes: random.random_range(1..=3),
            closes_early: random.random_ratio(1, 4),
        }
    }
}

impl SubscriptionPlan {
    fn draw(random: &mut StdRng, calm: bool, capable: bool) -> SubscriptionPlan {
        SubscriptionPlan {
            ack_timeout_secs: if calm { 600 } else { random.random_range(1..=2) },
            redeliver_on_disconnect: random.random() && !calm && capable,
            max_unacked_records: random.random_range(100..=10_000),
            members: random.random_range(1..=3),
            prefetch_batches: random.random_range(1..=30),
        }
    }
}

fn link_fault(random: &mut StdRng) -> LinkFault {
    let way = if random.random() { Way::ToServer } else { Way::ToClient };
    let endings = [Ending::Reset, Ending::Close, Ending::Silence];
    let ending = *endings.choose(random).unwrap_or(&Ending::Reset);
    match random.random_range(0..12) {
        0 | 1 => LinkFault::Slow { latency: millis(random, 1..=80), jitter: millis(random, 0..=40) },
        2 => LinkFault::Throttled(random.random_range(2_000..200_000)),
        3 | 4 => LinkFault::Cut(ending),
        5 | 6 => LinkFault::EndsAfter(way, random.random_range(0..20_000), ending),
        7 | 8 => LinkFault::HalfOpen(way),
        9 | 10 => LinkFault::BlackHole,
        _ => LinkFault::Refused,
    }
}

/// Steps that together take about as long as the chaos.
fn steps<F>(
    random: &mut StdRng,
    chaos: Duration,
    pause: RangeInclusive<u64>,
    mut draw: impl FnMut(&mut StdRng) -> F,
) -> Vec<Step<F>> {
    let mut steps = Vec::new();
    let mut taken = Duration::ZERO;
    while taken < chaos {
        let step = Step {
            after: millis(random, pause.clone()),
            fault: draw(random),
            lasting: millis(random, 20..=600),
        };
        taken += step.after + step.lasting;
        steps.push(step);
    }
    steps
}

pub fn millis(random: &mut StdRng, range: RangeInclusive<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}
