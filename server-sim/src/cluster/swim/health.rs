//! How well this node itself is: Lifeguard's local health.

/// A node that misses answers may be the one that is slow. Its score rises with every failed probe, with every suspicion it
/// has to refute and with every timer that comes late, and falls with every probe that succeeds; its own probes and verdicts
/// take (score + 1) times longer.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalHealth {
    score: u32,
    most: u32,
}

impl LocalHealth {
    pub fn new(most: u32) -> Self {
        LocalHealth { score: 0, most }
    }

    pub fn score(self) -> u32 {
        self.score
    }

    /// By how much timers are stretched.
    pub fn factor(self) -> u32 {
        self.score.saturating_add(1)
    }

    pub fn worse(&mut self) {
        self.score = self.score.saturating_add(1).min(self.most);
    }

    pub fn better(&mut self) {
        self.score = self.score.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_has_two_ends() {
        let mut health = LocalHealth::new(7);
        assert_eq!(health.factor(), 1);
        health.better();
        assert_eq!(health.factor(), 1);
        for _ in 0..20 {
            health.worse();
        }
        assert_eq!((health.score(), health.factor()), (7, 8));
        health.better();
        assert_eq!(health.factor(), 7);
        let mut off = LocalHealth::new(0);
        off.worse();
        assert_eq!(off.factor(), 1);
    }
}
