//! Kills, pauses and cuts off the nodes of a cluster under load from every language, and says what came of it.
//! Ends with `failover: 1 passed, 0 failed`, or the other way round.

use anyhow::Result;
use clap::Parser;
use hstream_conformance::{
    failover::{self, DESIGN_APPEND, DESIGN_SUBSCRIPTION, Fault, Report, Settings},
    language::Language,
};
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tracing_subscriber::EnvFilter;

/// A cluster under faults and load.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Folder of this crate, where adapters are.
    #[arg(long, default_value = "conformance")]
    folder: PathBuf,
    /// Languages that make the load.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Language::Rust])]
    languages: Vec<Language>,
    /// Nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// How long faults happen, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Faults, each as often as it is named.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Fault::Kill])]
    faults: Vec<Fault>,
    /// Decides which faults happen to whom and when; by chance if it is missing.
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    // `RUST_LOG=hstream_server=info,hstreamdb=debug` says what the nodes and our own clients do.
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run(&Arguments::parse()).await {
        Ok(()) => {
            println!("failover: 1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("failover: {error:#}");
            println!("failover: 0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let languages = arguments.languages.iter().map(|language| language.adapter(arguments.folder.clone()));
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let settings = Settings {
        nodes: arguments.nodes,
        lasting: Duration::from_secs(arguments.seconds),
        seed,
        faults: arguments.faults.clone(),
        languages: languages.collect::<Result<_>>()?,
    };
    let report = failover::run(&settings).await?;
    show(&report);
    Ok(())
}

fn show(report: &Report) {
    let faults: Vec<_> =
        report.faults.iter().map(|(fault, times)| format!("{times} times {}", fault.name())).collect();
    println!("\nA node was {}.", faults.join(", "));
    let summary = &report.summary;
    println!(
        "{} records acknowledged, none lost, doubled or out of order; {} delivered, {} of them again; {} looks at \
         checkpoints, none went back; the watched subscription moved {} times, its owners overlapped for {:.1?} at most.",
        summary.stored,
        summary.delivered,
        summary.redelivered,
        report.looks,
        report.moves,
        report.longest_overlap,
    );
    let rows = [
        ("first append after a kill", report.pauses.appends_after_kills(), DESIGN_APPEND),
        (
            "subscription moves again after a kill",
            report.pauses.subscriptions_after_kills(),
            DESIGN_SUBSCRIPTION,
        ),
    ];
    for (what, row, design) in rows {
        let Some(row) = row else { continue };
        let p99 = row.quantile(0.99);
        let verdict = if p99 <= design { "held" } else { "NOT HELD" };
        println!("{what}: p99 {:.2} s, design {design:?}: {verdict}", p99.as_secs_f64());
    }
}
