//! Runs the scenarios against the languages and ends with `conformance: N passed, N failed`.

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use hstream_conformance::{
    adapter::AdapterCommand,
    broken::BROKEN,
    language::Language,
    runner,
    scenario::{self, Scenario},
    vectors,
};
use hstream_testkit::Fault;
use std::{path::PathBuf, process::ExitCode};

/// One set of scenarios every language must pass.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Folder of this crate, where scenarios and adapters are.
    #[arg(long, default_value = "conformance")]
    folder: PathBuf,
    /// Languages.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Language::Raw, Language::Rust])]
    languages: Vec<Language>,
    /// Only scenarios whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Also runs against deliberately broken servers, each of which some scenario must notice.
    #[arg(long)]
    broken: bool,
    /// How many scenarios run at a time, each with a server and an adapter of its own. They wait more than they work.
    #[arg(long, default_value_t = 6)]
    jobs: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A case, its name first.
type Case<'a> = (String, BoxFuture<'a, Result<()>>);

async fn run(arguments: &Arguments) -> Result<usize> {
    let scenarios = scenario::load(&arguments.folder.join("scenarios"))?;
    let chosen = |name: &str| name.contains(&arguments.only);
    let mut cases: Vec<Case<'_>> = Vec::new();
    for language in &arguments.languages {
        let adapter = language.adapter(arguments.folder.clone())?;
        for set in vectors::SETS.into_iter().filter(|set| chosen(set)) {
            // Which kind an error is of is a client's business; the wire has status and body only.
            if matches!(language, Language::Raw) && set == "errors" {
                continue;
            }
            let (folder, adapter) = (&arguments.folder, adapter.clone());
            let name = format!("{}: golden vectors {set}", adapter.language);
            cases.push((name, async move { vectors::run(set, folder, &adapter).await }.boxed()));
        }
        for scenario in scenarios.iter().filter(|scenario| chosen(&scenario.name)) {
            cases.push(case(scenario, adapter.clone()));
        }
    }
    if arguments.broken {
        for scenario in &scenarios {
            let covered = BROKEN.iter().any(|(_, name)| *name == scenario.name);
            ensure!(covered, "no broken server is known that {:?} notices", scenario.name);
        }
        for (fault, name) in BROKEN.iter().filter(|(_, name)| chosen(name)) {
            let scenario = scenarios.iter().find(|scenario| scenario.name == *name);
            let scenario = scenario.with_context(|| format!("no scenario is called {name:?}"))?;
            let adapter = |language: Language| language.adapter(arguments.folder.clone());
            cases.push(broken_case(scenario, [adapter(Language::Rust)?, adapter(Language::Raw)?], *fault));
        }
    }
    let (mut passed, mut failed) = (0, 0);
    let mut results = futures::stream::iter(cases)
        .map(|(name, case)| case.map(move |result| (name, result)))
        .buffered(arguments.jobs.max(1));
    while let Some((name, result)) = results.next().await {
        match result {
            Ok(()) => {
                println!("ok    {name}");
                passed += 1;
            }
            Err(error) => {
                println!("FAIL  {name}: {error:#}");
                failed += 1;
            }
        }
    }
    println!("conformance: {passed} passed, {failed} failed");
    Ok(failed)
}

fn case(scenario: &Scenario, adapter: AdapterCommand) -> Case<'_> {
    let reason = scenario.except.get(&adapter.language);
    let name = match reason {
        None => format!("{}: {}", adapter.language, scenario.name),
        Some(reason) => format!("{}: {} (cannot: {reason})", adapter.language, scenario.name),
    };
    let run = async move {
        match (runner::run(scenario, &adapter, None).await, reason) {
            (result, None) => result,
            (Err(_), Some(_)) => Ok(()),
            (Ok(()), Some(reason)) => bail!("it passes, so the reason {reason:?} no longer holds"),
        }
    };
    (name, run.boxed())
}

/// Somebody must notice: the Rust client, or, where it makes up for the fault, the wire itself.
fn broken_case(scenario: &Scenario, adapters: [AdapterCommand; 2], fault: Fault) -> Case<'_> {
    let name = format!("broken server {fault:?} is noticed by {:?}", scenario.name);
    let run = async move {
        // Who cannot pass anyway says nothing about the server.
        for adapter in adapters.iter().filter(|adapter| !scenario.except.contains_key(&adapter.language)) {
            if runner::run(scenario, adapter, Some(fault)).await.is_err() {
                return Ok(());
            }
        }
        bail!("a server with the fault {fault:?} passed")
    };
    (name, run.boxed())
}
