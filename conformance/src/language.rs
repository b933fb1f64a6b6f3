//! The languages, and how the adapter of each is started.

use crate::adapter::AdapterCommand;
use anyhow::{Context as _, Result};
use clap::ValueEnum;
use std::path::PathBuf;

/// A language with an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// The wire, without a client of ours.
    Raw,
    /// The core.
    Rust,
    /// The Python package.
    Python,
    /// The Node package.
    Node,
    /// The Erlang application.
    Erlang,
}

impl Language {
    /// The adapter, to be run in the folder of this crate.
    ///
    /// # Errors
    /// When the environment does not say where Python is.
    pub fn adapter(self, folder: PathBuf) -> Result<AdapterCommand> {
        let own = |name: &str| -> Result<Vec<String>> {
            let path = std::env::current_exe()?.with_file_name(name);
            Ok(vec![path.to_string_lossy().into_owned()])
        };
        let (name, command) = match self {
            Language::Raw => ("raw", own("conformance-raw")?),
            Language::Rust => ("rust", own("conformance-rust")?),
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
