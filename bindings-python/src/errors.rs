//! One exception class per error kind of the core, all below `HStreamError`, made from the core's own table.

use hstreamdb::{Error, ErrorKind, FailureAction};
use pyo3::{
    exceptions::PyException,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyType},
};
use std::{error::Error as StdError, ffi::CString, fmt};

struct Tree {
    base: Py<PyType>,
    kinds: Vec<(ErrorKind, Py<PyType>)>,
}

static TREE: PyOnceLock<Tree> = PyOnceLock::new();

/// Class-level defaults, so that the attributes exist on every instance, also on one a test makes by hand.
const ATTRIBUTES: [&str; 9] =
    ["kind", "status", "code", "message", "extra", "node", "operation", "resource", "errors"];

fn tree(py: Python<'_>) -> PyResult<&Tree> {
    TREE.get_or_try_init(py, || {
        let defaults = PyDict::new(py);
        for name in ATTRIBUTES {
            defaults.set_item(name, py.None())?;
        }
        defaults.set_item("ids", py.None())?;
        defaults.set_item("tries", 0)?;
        defaults.set_item("retryable", false)?;
        defaults.set_item("may_have_been_applied", false)?;
        // `new_type` lets go of the dict before it is used, so a second reference has to outlive the call.
        let base = PyErr::new_type(
            py,
            c"hstreamdb.errors.HStreamError",
            Some(c"Base of every error of this package; the text is one line that says what to do."),
            Some(&py.get_type::<PyException>()),
            Some(defaults.clone().into_any().unbind()),
        )?;
        let mut kinds = Vec::with_capacity(ErrorKind::ALL.len());
        for &kind in ErrorKind::ALL {
            let name = CString::new(format!("hstreamdb.errors.{}", kind.class_name()))?;
            let doc = CString::new(kind.doc())?;
            let dict = PyDict::new(py);
            dict.set_item("kind", kind.name())?;
            let class = PyErr::new_type(
                py,
                &name,
                Some(&doc),
                Some(base.bind(py)),
                Some(dict.clone().into_any().unbind()),
            )?;
            kinds.push((kind, class));
        }
        Ok(Tree { base, kinds })
    })
}

/// Puts the classes, and the tuple `ERROR_CLASSES` of all of them, into the extension module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let tree = tree(py)?;
    module.add("HStreamError", tree.base.clone_ref(py))?;
    let mut classes = Vec::with_capacity(tree.kinds.len());
    for (kind, class) in &tree.kinds {
        module.add(kind.class_name(), class.clone_ref(py))?;
        classes.push(class.clone_ref(py));
    }
    module.add("ERROR_CLASSES", classes)
}

/// An exception of the application's code on its way through the core; it comes out as the cause of the core's error.
pub struct Raised {
    exception: PyErr,
    text: String,
    /// What the application wants done about it, where it was asked.
    pub action: Option<FailureAction>,
}

impl Raised {
    /// From an exception.
    pub fn new(py: Python<'_>, exception: PyErr, action: Option<FailureAction>) -> Self {
        let name = exception.get_type(py).name().map_or_else(|_| "Exception".into(), |name| name.to_string());
        let text = format!("{name}: {}", exception.value(py));
        Raised { exception, text, action }
    }

    /// The one that an error of the core rests on.
    pub fn of(error: &Error) -> Option<&Raised> {
        let mut source = error.source();
        while let Some(found) = source {
            if let Some(raised) = found.downcast_ref() {
                return Some(raised);
            }
            source = found.source();
        }
        None
    }
}

impl fmt::Debug for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raised").field("text", &self.text).finish_non_exhaustive()
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Raised {}

/// The exception for an error of the core.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, error).unwrap_or_else(|problem| problem)
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let tree = tree(py)?;
    let class = tree
        .kinds
        .iter()
        .find_map(|(kind, class)| (*kind == error.kind()).then_some(class))
        .unwrap_or(&tree.base)
        .bind(py);
    let instance = class.call1((error.to_string(),))?;
    instance.setattr("kind", error.kind().name())?;
    instance.setattr("operation", error.operation())?;
    instance.setattr("resource", error.resource())?;
    instance.setattr("status", error.status())?;
    instance.setattr("code", error.code())?;
    instance.setattr("message", error.message())?;
    instance.setattr("node", error.node())?;
    instance.setattr("tries", error.tries())?;
    instance.setattr("retryable", error.is_retryable())?;
    instance.setattr("may_have_been_applied", error.may_have_been_applied())?;
    if let Some(json) = error.extra_json() {
        instance.setattr("extra", py.import("json")?.call_method1("loads", (json,))?)?;
    }
    let exception = PyErr::from_value(instance);
    if let Some(raised) = Raised::of(error) {
        exception.set_cause(py, Some(raised.exception.clone_ref(py)));
    }
    Ok(exception)
}
