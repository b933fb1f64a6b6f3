//! One core runtime per process, shared by all threads of JavaScript and ended with the last of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hstreamdb::{Runtime, RuntimeOptions};
use napi::bindgen_prelude::{Env, Result};

use crate::errors::to_napi;

/// Bound of the join when the last environment goes: `process.exit` is never held longer than this.
const SHUTDOWN: Duration = Duration::from_millis(500);

struct State {
    runtime: Option<Arc<Runtime>>,
    environments: usize,
}

static STATE: Mutex<State> = Mutex::new(State { runtime: None, environments: 0 });

/// Counts the calling environment; when the last one is torn down the runtime is shut down.
pub fn enter_environment(env: &Env) -> Result<()> {
    state().environments += 1;
    env.add_env_cleanup_hook((), |()| {
        let last = {
            let mut state = state();
            state.environments = state.environments.saturating_sub(1);
            if state.environments == 0 { state.runtime.take() } else { None }
        };
        if let Some(runtime) = last {
            runtime.shutdown(SHUTDOWN);
        }
    })?;
    Ok(())
}

/// The process's runtime, started on first use; an error in a forked child.
pub fn runtime() -> Result<Arc<Runtime>> {
    let mut state = state();
    let runtime = match &state.runtime {
        Some(runtime) => runtime.clone(),
        None => {
            let runtime =
                Runtime::start(RuntimeOptions { name: "hstreamdb-node".into(), ..RuntimeOptions::default() })
                    .map_err(|error| to_napi(&error))?;
            state.runtime = Some(runtime.clone());
            runtime
        }
    };
    runtime.check_process().map_err(|error| to_napi(&error))?;
    Ok(runtime)
}

fn state() -> std::sync::MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
