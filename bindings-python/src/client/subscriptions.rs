//! Subscriptions and their consumers.

use super::ClientBase;
use crate::{arguments, resources};
use hstreamdb::SubscriptionOptions;
use pyo3::{IntoPyObjectExt, prelude::*, types::PyDict};

#[pymethods]
impl ClientBase {
    /// Creates a subscription and gives its `Subscription`. Options: `ack_timeout_secs` (600), `max_unacked_records` (10000),
    /// `offset` (`"latest"`, or `"earliest"`); with our server also `redeliver_on_disconnect`, `max_deliveries` and
    /// `dead_letter_stream`.
    ///
    /// Raises `AlreadyExistsError`, `NotFoundError` for an unknown stream, `InvalidArgumentError`, `UnavailableError`,
    /// `TimeoutError`, `OutcomeUnknownError` when it may have been created, `ClosedError`.
    #[pyo3(signature = (subscription, stream, **options))]
    fn create_subscription<'py>(
        &self,
        py: Python<'py>,
        subscription: String,
        stream: String,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options =
            arguments::apply(py, SubscriptionOptions::default(), options, SubscriptionOptions::set)?;
        let core = self.core.clone();
        let create = async move { core.create_subscription(&subscription, &stream, options).await };
        self.caller.call(py, create, resources::subscription)
    }

    /// Deletes a subscription; `force` also when it has consumers.
    ///
    /// Raises `NotFoundError`, `FailedPreconditionError` when it has consumers, and as `create_subscription`.
    #[pyo3(signature = (subscription, *, force = false))]
    fn delete_subscription<'py>(
        &self,
        py: Python<'py>,
        subscription: String,
        force: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call_none(py, async move { core.delete_subscription(&subscription, force).await })
    }

    /// Whether there is a subscription of that id.
    ///
    /// Raises `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn subscription_exists<'py>(&self, py: Python<'py>, subscription: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.subscription_exists(&subscription).await }, |py, yes| {
            yes.into_py_any(py)
        })
    }

    /// One `Subscription` and, by shard, the last batch that is acknowledged with everything before it.
    ///
    /// Raises `NotFoundError`, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn get_subscription<'py>(&self, py: Python<'py>, subscription: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let get = async move { core.get_subscription(&subscription).await };
        self.caller.call(py, get, |py, (info, checkpoints)| {
            (resources::subscription(py, info)?, checkpoints_of(py, checkpoints)?).into_py_any(py)
        })
    }

    /// By shard, the last batch that is acknowledged with everything before it.
    ///
    /// Raises as `get_subscription`.
    fn subscription_offsets<'py>(
        &self,
        py: Python<'py>,
        subscription: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let get = async move { core.subscription_offsets(&subscription).await };
        self.caller.call(py, get, |py, checkpoints| checkpoints_of(py, checkpoints)?.into_py_any(py))
    }

    /// A list of all `Subscription`, or of those whose id begins with `prefix`.
    ///
    /// Raises `UnavailableError`, `TimeoutError`, `ClosedError`.
    #[pyo3(signature = (*, prefix = None))]
    fn list_subscriptions<'py>(
        &self,
        py: Python<'py>,
        prefix: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        let list = async move {
            match prefix {
                Some(prefix) => core.list_subscriptions_with_prefix(&prefix).await,
                None => core.list_subscriptions().await,
            }
        };
        self.caller.call(py, list, |py, all| resources::list(py, all, resources::subscription))
    }

    /// A list of the `ConsumerInfo` attached to a subscription now.
    ///
    /// Raises `NotFoundError`, `UnavailableError`, `TimeoutError`, `ClosedError`.
    fn list_consumers<'py>(&self, py: Python<'py>, subscription: String) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core.clone();
        self.caller.call(py, async move { core.list_consumers(&subscription).await }, |py, all| {
            resources::list(py, all, resources::consumer)
        })
    }
}

fn checkpoints_of(py: Python<'_>, checkpoints: Vec<(u64, u64)>) -> PyResult<Bound<'_, PyDict>> {
    let by_shard = PyDict::new(py);
    for (shard_id, batch_id) in checkpoints {
        by_shard.set_item(shard_id, batch_id)?;
    }
    Ok(by_shard)
}
