//! Load from every language on a cluster whose nodes are killed, paused, cut off and restarted all the time, and what came
//! of it: whether anything that was acknowledged was lost, doubled, reordered or forgotten, and how long everybody had to
//! wait.

mod faults;
mod jetstream;
mod load;
mod pauses;
mod timeline;
mod witness;

pub use faults::Fault;
pub use jetstream::{Figures, JetStreamReport, JetStreamSettings, Round, Victim, Way, run_on_jetstream};
pub use pauses::{DESIGN_APPEND, DESIGN_SUBSCRIPTION, Pauses, Row};

use crate::adapter::AdapterCommand;
use anyhow::{Context as _, Result, bail, ensure};
use faults::Plan;
use futures::future::{join_all, try_join_all};
use hstream_server::test_cluster::TestCluster;
use hstream_testkit::history::{Event, History, Id, Summary, record_of};
use hstreamdb::{Client, Offset, StartFrom, StreamOptions, SubscriptionOptions};
use load::{Appending, Clock, Consuming, Load, Phase};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use timeline::Timeline;
use tokio::sync::watch;
use witness::Witness;

const STREAM: &str = "failover";
/// Two for every node of three, so that every kill takes the node of some.
const SHARDS: u32 = 6;
/// Everything comes to an end within this time once the faults are over.
const PATIENCE: Duration = Duration::from_secs(90);
/// So long a fault waits for consumers that are behind, so that most begin when everything goes on.
const CATCH_UP: Duration = Duration::from_secs(5);
/// A node that was started again serves within this time.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Nodes of the cluster.
    pub nodes: u32,
    /// How long faults happen.
    pub lasting: Duration,
    /// Decides about all of them.
    pub seed: u64,
    /// Which faults there are.
    pub faults: Vec<Fault>,
    /// Who makes the load.
    pub languages: Vec<AdapterCommand>,
}

/// How it went.
#[derive(Debug)]
pub struct Report {
    /// What the history holds.
    pub summary: Summary,
    /// How often each fault happened.
    pub faults: Vec<(Fault, usize)>,
    /// How long everybody waited, by fault.
    pub pauses: Pauses,
    /// Longest time in which two nodes delivered the records of one subscription.
    pub longest_overlap: Duration,
    /// Moves of the subscription that was watched for it.
    pub moves: usize,
    /// Looks at checkpoints.
    pub looks: usize,
}

/// Runs it.
///
/// # Errors
/// Everything that must not happen: what the history checker found, a checkpoint that went back, owners that overlapped for
/// longer than a lease, a language whose calls failed, anything that did not go on.
pub async fn run(settings: &Settings) -> Result<Report> {
    let cluster = TestCluster::builder().nodes(settings.nodes).seed(settings.seed).start().await?;
    let history = Arc::new(History::default());
    let direct = Client::connect(&cluster.url()).await?;
    direct.create_stream(STREAM, StreamOptions::new().shard_count(SHARDS)).await?;
    let names: Vec<String> = settings.languages.iter().map(|language| language.language.clone()).collect();
    for name in names.iter().map(String::as_str).chain([witness::NAME]) {
        // Without a client that left in order, what was not acknowledged comes again after a while.
        let options = SubscriptionOptions::new().offset(StartFrom::Earliest).ack_timeout_secs(20);
        direct.create_subscription(&subscription(name), STREAM, options).await?;
    }
    let keys = Arc::new(load::keys(&direct, STREAM).await?);
    let (phase, phases) = watch::channel(Phase::Load);
    let clock = Arc::new(Clock::default());
    let load = Load { url: cluster.url(), history: history.clone(), clock, keys, phases };
    let appending: Vec<Arc<Appending>> = names.iter().map(|name| Appending::new(name)).collect();
    let consuming: Vec<Arc<Consuming>> =
        names.iter().enumerate().map(|(number, name)| Consuming::new(name, number as u32)).collect();
    let witness = Witness::start(&cluster.url(), &subscription(witness::NAME)).await?;
    let nodes = cluster.nodes().zip(cluster.addresses()).collect();
    let timeline = Timeline::watch(nodes, names.iter().map(|name| subscription(name)).collect())?;
    let checkpoints =
        witness::Checkpoints::watch(direct.clone(), names.iter().map(|name| subscription(name)).collect());

    let appends = try_join_all(
        settings
            .languages
            .iter()
            .zip(&appending)
            .map(|(language, appending)| appending.clone().run(language.clone(), load.clone())),
    );
    let deliveries = try_join_all(
        settings
            .languages
            .iter()
            .zip(&consuming)
            .map(|(language, consuming)| consuming.clone().run(language.clone(), load.clone())),
    );
    let main = async {
        // Everybody has begun.
        load::begun(&appending, &consuming).await?;
        let rounds = disturb(&cluster, settings, &consuming, &history).await?;
        cluster.await_ready(READY_WITHIN).await?;
        phase.send_replace(Phase::Drain);
        load::ended(&appending).await?;
        let stored = everything(&cluster.url()).await?;
        load::drained(&consuming, &stored).await?;
        for number in 0..consuming.len() {
            history.note(Event::Drained { subscription: number as u32 });
        }
        history.keep(&stored);
        phase.send_replace(Phase::Leave);
        Ok::<_, anyhow::Error>(rounds)
    };
    let (rounds, _, _) = tokio::try_join!(main, appends, deliveries)?;

    let looks = checkpoints.end().await?;
    let (moves, longest_overlap) = witness.end(witness::LEASE).await?;
    // Told also of a run that has failed.
    for wait in Pauses::explained(&rounds, &consuming, &timeline) {
        println!("{wait}");
    }
    let pauses = Pauses::of(&rounds, &appending, &consuming);
    match &pauses {
        Ok(pauses) => println!("\n{pauses}\n"),
        Err(error) => println!("\n{error:#}\n"),
    }
    // What was lost matters more than who waited too long.
    let summary = history.check().map_err(|violations| anyhow::anyhow!("{violations}"))?;
    let pauses = pauses?;
    direct.close(PATIENCE).await?;
    cluster.shutdown().await;
    let count = |fault| rounds.iter().filter(|round| round.fault == fault).count();
    let faults = Fault::ALL.into_iter().map(|fault| (fault, count(fault))).filter(|(_, n)| *n > 0).collect();
    Ok(Report { summary, faults, pauses, longest_overlap, moves, looks })
}

fn subscription(language: &str) -> String {
    format!("failover-{language}")
}

/// One fault after another until the time is over.
async fn disturb(
    cluster: &TestCluster,
    settings: &Settings,
    consuming: &[Arc<Consuming>],
    history: &History,
) -> Result<Vec<faults::Round>> {
    let mut plan = Plan::new(settings.seed, settings.faults.clone());
    let end = Instant::now() + settings.lasting;
    let mut rounds = Vec::new();
    let names: Vec<String> = consuming.iter().map(|of| of.language.clone()).collect();
    while Instant::now() < end {
        load::caught_up(consuming, CATCH_UP).await;
        let owners = owners(cluster, &names).await?;
        let round = plan.round(&cluster.nodes().collect::<Vec<_>>(), owners);
        // What the server did not make durable may come again from here on …
        history.note(Event::Restarted);
        let round = round.happen(cluster, READY_WITHIN).await?;
        // … until here.
        history.note(Event::Restarted);
        println!("{round}");
        rounds.push(round);
        tokio::time::sleep(plan.rest()).await;
    }
    ensure!(!rounds.is_empty(), "there was no time for a fault");
    Ok(rounds)
}

/// The owners of the subscriptions as the cluster names them: language and number of the node.
async fn owners(cluster: &TestCluster, names: &[String]) -> Result<Vec<(String, u32)>> {
    let address = cluster.addresses().first().copied().context("no node")?;
    let owners = names.iter().map(|name| async move {
        let owner = witness::owner_of(address, &subscription(name)).await?;
        Ok::<_, anyhow::Error>((name.clone(), owner))
    });
    join_all(owners).await.into_iter().collect()
}

/// All that is stored, in its order.
async fn everything(url: &str) -> Result<Vec<(Id, u64)>> {
    let client = Client::connect(url).await?;
    let mut stored = Vec::new();
    for shard in client.list_shards(STREAM).await? {
        let reader = client.shard_reader(STREAM, shard.id).until(Offset::Latest).open().await?;
        while let Some(batch) = reader.next_batch().await? {
            for record in batch.records()? {
                let Some(number) = record_of(&record.payload) else {
                    bail!("record {} was altered", record.id)
                };
                let id =
                    Id { shard: record.id.shard_id, batch: record.id.batch_id, index: record.id.batch_index };
                stored.push((id, number));
            }
        }
    }
    client.close(PATIENCE).await?;
    Ok(stored)
}
