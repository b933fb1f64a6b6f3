//! The extension module `hstreamdb._native`: converts arguments, runs calls of the core on its runtime,
//! converts results. Everything that has to do with records, nodes and retries is in the core.

mod arguments;
mod batch;
mod bridge;
mod client;
mod consumer;
mod errors;
mod feed;
mod gate;
mod options;
mod producer;
mod reader;
mod record;
mod resources;
mod returned;
mod runtime;
mod slot;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    use pyo3::{prelude::*, types::PyDict};

    #[pymodule_export]
    use super::{
        batch::Batch,
        client::{Client, connect},
        consumer::Consumer,
        options::option_table,
        producer::Producer,
        reader::Reader,
        record::{Record, RecordId},
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        super::errors::register(module)?;
        let at_exit = wrap_pyfunction!(super::runtime::_at_exit, module)?;
        py.import("atexit")?.call_method1("register", (at_exit,))?;
        // Not there on Windows, which has no fork.
        if let Ok(register) = py.import("os")?.getattr("register_at_fork") {
            let hooks = PyDict::new(py);
            hooks.set_item("after_in_child", wrap_pyfunction!(super::runtime::_after_fork, module)?)?;
            register.call((), Some(&hooks))?;
        }
        Ok(())
    }
}
