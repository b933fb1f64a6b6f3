//! The extension module `hstreamdb._native`: converts arguments, runs calls of the core on its runtime,
//! converts results. Everything that has to do with records, nodes and retries is in the core.

mod arguments;
mod batch;
mod blocking;
mod bridge;
mod caller;
mod client;
mod consumer;
mod errors;
mod events;
mod exit;
mod feed;
mod gate;
mod handle;
mod hrecord;
mod listener;
mod logs;
mod options;
mod polled_reader;
mod position;
mod producer;
mod providers;
mod reader;
mod receipt;
mod record;
mod record_id;
mod reports;
mod resources;
mod returned;
mod run;
mod runtime;
mod slot;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    use pyo3::{prelude::*, types::PyDict};

    #[pymodule_export]
    use super::{
        batch::ReceivedBatch,
        client::{_connect_sync, Client, SyncClient, connect, stat_table},
        consumer::{Consumer, SyncConsumer},
        events::{Events, SyncEvents},
        hrecord::{HRecord, hrecord_decode, hrecord_encode},
        options::{metric_table, option_table, plain_row},
        polled_reader::{PolledReader, SyncPolledReader},
        position::StreamPosition,
        producer::{Producer, SyncProducer},
        reader::{Reader, SyncReader},
        receipt::Receipt,
        record::ReceivedRecord,
        record_id::_parse_record_id,
        run::HandlerContext,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        super::errors::register(module)?;
        let at_exit = wrap_pyfunction!(super::exit::_at_exit, module)?;
        py.import("atexit")?.call_method1("register", (at_exit,))?;
        // Not there on Windows, which has no fork.
        if let Ok(register) = py.import("os")?.getattr("register_at_fork") {
            let hooks = PyDict::new(py);
            hooks.set_item("after_in_child", wrap_pyfunction!(super::exit::_after_fork, module)?)?;
            register.call((), Some(&hooks))?;
        }
        Ok(())
    }
}
