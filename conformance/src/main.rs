//! Runs the scenarios against the languages and ends with `conformance: N passed, N failed`.

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use hstream_conformance::{adapter::AdapterCommand, runner, scenario, vectors};
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
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Language::Rust])]
    languages: Vec<Language>,
    /// Only scenarios whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Also runs against deliberately broken servers, each of which some scenario must notice.
    #[arg(long)]
    broken: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Language {
    Rust,
    Python,
    Node,
    Erlang,
}

impl Language {
    fn adapter(self, folder: PathBuf) -> Result<AdapterCommand> {
        let (name, command) = match self {
            Language::Rust => {
                let own = std::env::current_exe()?;
                ("rust", vec![own.with_file_name("conformance-rust").to_string_lossy().into_owned()])
            }
            Language::Python => {
                let python = std::env::var("HSTREAM_CONFORMANCE_PYTHON")
                    .context("HSTREAM_CONFORMANCE_PYTHON is not set; `make test` sets it")?;
                ("python", vec![python, "adapters/python.py".into()])
            }
            Language::Node => ("node", vec!["node".into(), "adapters/node.mjs".into()]),
            Language::Erlang => ("erlang", vec!["escript".into(), "adapters/erlang.escript".into()]),
        };
        Ok(AdapterCommand { language: name.into(), command, folder })
    }
}

/// Broken servers and the scenario that must notice; every scenario is here.
const BROKEN: &[(Fault, &str)] = &[
    (Fault::ForgetAppends, "every record comes back in order"),
    (Fault::Reorder, "order is kept over many batches"),
    (Fault::Hang, "order is kept over many batches"),
    (Fault::Duplicate, "compressed batches come back"),
    (Fault::ForgetAppends, "empty, binary and non-ASCII contents come back"),
    (Fault::WrongErrors, "errors carry kind and code"),
    (Fault::DropAcks, "acknowledged records are not delivered again"),
    (Fault::DropStamps, "lost replies neither lose nor double a record"),
    (Fault::ForgetAppends, "broken connections neither lose nor double an append"),
    (Fault::ForgetAppends, "a killed server loses nothing that was acknowledged"),
    (Fault::ForgetAppends, "a consumer goes on after the server was killed"),
    (Fault::ForgetAppends, "an append against a server that hangs ends and says what is unknown"),
];

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

async fn run(arguments: &Arguments) -> Result<usize> {
    let scenarios = scenario::load(&arguments.folder.join("scenarios"))?;
    let (mut passed, mut failed) = (0, 0);
    let mut note = |name: String, result: Result<()>| match result {
        Ok(()) => {
            println!("ok    {name}");
            passed += 1;
        }
        Err(error) => {
            println!("FAIL  {name}: {error:#}");
            failed += 1;
        }
    };
    for language in &arguments.languages {
        let adapter = language.adapter(arguments.folder.clone())?;
        for set in vectors::SETS.iter().filter(|set| set.contains(&arguments.only)) {
            let result = vectors::run(set, &arguments.folder, &adapter).await;
            note(format!("{}: golden vectors {set}", adapter.language), result);
        }
        for scenario in scenarios.iter().filter(|scenario| scenario.name.contains(&arguments.only)) {
            let result = runner::run(scenario, &adapter, None).await;
            note(format!("{}: {}", adapter.language, scenario.name), result);
        }
    }
    if arguments.broken {
        let adapter = Language::Rust.adapter(arguments.folder.clone())?;
        for scenario in &scenarios {
            let covered = BROKEN.iter().any(|(_, name)| *name == scenario.name);
            anyhow::ensure!(covered, "no broken server is known that {:?} notices", scenario.name);
        }
        for (fault, name) in BROKEN {
            let scenario = scenarios.iter().find(|scenario| scenario.name == *name);
            let scenario = scenario.with_context(|| format!("no scenario is called {name:?}"))?;
            let noticed = runner::run(scenario, &adapter, Some(*fault)).await;
            let result = match noticed {
                Err(_) => Ok(()),
                Ok(()) => Err(anyhow::anyhow!("a server with the fault {fault:?} passed")),
            };
            note(format!("broken server {fault:?} is noticed by {name:?}"), result);
        }
    }
    println!("conformance: {passed} passed, {failed} failed");
    Ok(failed)
}
