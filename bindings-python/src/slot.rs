//! A handle that is made at once and opened by `async with` or `await`: its options are checked where they
//! were written, and the network is touched where Python can wait.

use hstreamdb::{Error, ErrorKind, Result};
use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

enum State<B, T> {
    New(B),
    Opening,
    Open(T),
    Closed,
}

/// The life of such a handle: builder `B` first, core object `T` once open.
pub struct Slot<B, T> {
    noun: &'static str,
    state: Mutex<State<B, T>>,
}

impl<B, T> fmt::Debug for Slot<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("noun", &self.noun).finish_non_exhaustive()
    }
}

impl<B, T: Clone> Slot<B, T> {
    /// A handle not opened yet; `noun` is what error texts call it.
    pub fn new(noun: &'static str, builder: B) -> Self {
        Slot { noun, state: Mutex::new(State::New(builder)) }
    }

    fn state(&self) -> MutexGuard<'_, State<B, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The builder, for the one call that opens.
    pub fn begin(&self) -> Result<B> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Opening) {
            State::New(builder) => Ok(builder),
            other => {
                *state = other;
                let message = match &*state {
                    State::Closed => "it was closed; make a new one",
                    _ => "it is open already",
                };
                Err(self.error(message))
            }
        }
    }

    /// Ends the opening with the core object; gives it back when the handle was closed meanwhile.
    pub fn opened(&self, core: T) -> Result<()> {
        let mut state = self.state();
        if matches!(&*state, State::Opening) {
            *state = State::Open(core);
            return Ok(());
        }
        Err(self.error("it was closed while it was opened"))
    }

    /// The core object of an open handle.
    pub fn get(&self) -> Result<T> {
        match &*self.state() {
            State::Open(core) => Ok(core.clone()),
            State::New(_) => Err(self.error("it is not open yet: use `async with`, or await it first")),
            State::Opening => Err(self.error("it is not open: its opening has not ended, or failed")),
            State::Closed => Err(self.error("it was closed; make a new one")),
        }
    }

    /// The core object, if there is anything to close. A handle never opened is closed by this.
    pub fn closing(&self) -> Option<T> {
        let mut state = self.state();
        match &*state {
            State::Open(core) => Some(core.clone()),
            _ => {
                *state = State::Closed;
                None
            }
        }
    }

    fn error(&self, message: &'static str) -> Error {
        Error::new(ErrorKind::Closed, self.noun).with_message(message)
    }
}
