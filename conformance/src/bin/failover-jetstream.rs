//! Three NATS peers and three nodes under load, of which one of either or both is killed or stands still in every round; says
//! what came of it. Ends with `failover-jetstream: 1 passed, 0 failed`, or the other way round.

use anyhow::Result;
use clap::Parser;
use hstream_conformance::{
    failover::{JetStreamReport, JetStreamSettings, Victim, Way, run_on_jetstream},
    language::Language,
};
use std::{path::PathBuf, process::ExitCode};

/// A cluster on JetStream under faults and load.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Folder of this crate, where adapters are.
    #[arg(long, default_value = "conformance")]
    folder: PathBuf,
    /// Languages that make the load.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Language::Rust])]
    languages: Vec<Language>,
    /// So many appenders and consumers of each language.
    #[arg(long, default_value_t = 3)]
    times: usize,
    /// Faults.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Who fails, each as often as it is named.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Victim::ALL)]
    victims: Vec<Victim>,
    /// How, each as often as it is named.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Way::USUAL)]
    ways: Vec<Way>,
    /// When the peers sync what they write: `always`, or a time such as `10s`; as NATS has it if it is missing.
    #[arg(long)]
    sync_interval: Option<String>,
    /// The server; the one of this build if it is missing.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Decides which faults happen to whom and when; by chance if it is missing.
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => {
            println!("failover-jetstream: 1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("failover-jetstream: {error:#}");
            println!("failover-jetstream: 0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut languages = Vec::new();
    for language in &arguments.languages {
        for number in 1..=arguments.times {
            let mut adapter = language.adapter(arguments.folder.clone())?;
            adapter.language = format!("{}-{number}", adapter.language);
            languages.push(adapter);
        }
    }
    let settings = JetStreamSettings {
        rounds: arguments.rounds,
        seed,
        victims: arguments.victims.clone(),
        ways: arguments.ways.clone(),
        sync_interval: arguments.sync_interval.clone(),
        languages,
        server: arguments.server.clone(),
    };
    show(&run_on_jetstream(&settings).await?);
    Ok(())
}

fn show(report: &JetStreamReport) {
    let (summary, (checkpoints, tails)) = (&report.summary, report.looks);
    println!(
        "{} records acknowledged, none lost, doubled or out of order; {} delivered, {} of them again; {} shards were read \
         from their first to their newest record meanwhile; {checkpoints} looks at checkpoints and {tails} at tails, none \
         went back; the watched subscription moved {} times, its owners overlapped for {:.1?} at most.",
        summary.stored,
        summary.delivered,
        summary.redelivered,
        report.readings,
        report.moves,
        report.longest_overlap,
    );
}
