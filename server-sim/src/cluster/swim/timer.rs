//! What membership wants to be woken up for.

use super::identity::Identity;
use std::time::Instant;

/// A wake-up that membership asked for; to be given back when its time has come. Late is fine, never is not. Those that are
/// due have to come in the order of their moments.
#[derive(Debug, Clone)]
pub struct TimerToken {
    pub(super) what: Wake,
    /// When it is due.
    pub(super) due: Instant,
    /// Which foca asked: those of one that was replaced are void.
    pub(super) life: u64,
    /// Whether it came late once and was put off.
    pub(super) put_off: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Wake {
    Foca(foca::Timer<Identity>),
    /// Compare everything with another node.
    PushPull,
    /// Try a dead node.
    Reconnect,
    /// Ask those for their descriptions that none is known of.
    Missing,
    /// Forget what is old.
    Sweep,
}
