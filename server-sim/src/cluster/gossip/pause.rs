//! How long to wait before a seed is tried again.

use rand::Rng;
use std::time::Duration;

/// At first, while nodes that are started together wait for each other.
const FIRST: Duration = Duration::from_millis(200);
const EAGER: Duration = Duration::from_secs(1);
/// How often it is tried that eagerly.
const EAGER_TRIES: u32 = 30;
/// Afterwards, and between looks at a seed that is reached.
const CALM: Duration = Duration::from_secs(10);

/// The pause after so many failures in a row; after none the one between looks. A quarter more or less of what is due, so
/// that nodes that were started together do not go on together.
pub(super) fn pause(failures: u32, rng: &mut impl Rng) -> Duration {
    let due = match failures {
        0 => CALM,
        1..=EAGER_TRIES => FIRST.saturating_mul(1 << (failures - 1).min(8)).min(EAGER),
        _ => EAGER.saturating_mul(1 << (failures - EAGER_TRIES).min(8)).min(CALM),
    };
    due.mul_f64(rng.random_range(0.75..1.25))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    #[test]
    fn pauses_grow_from_a_fifth_of_a_second_to_ten() {
        let mut rng = StdRng::seed_from_u64(1);
        for (failures, due) in
            [(1, 200), (2, 400), (4, 1_000), (30, 1_000), (31, 2_000), (1_000, 10_000), (0, 10_000)]
        {
            let pauses: Vec<u128> = (0..500).map(|_| pause(failures, &mut rng).as_millis()).collect();
            let (least, most) = (*pauses.iter().min().unwrap(), *pauses.iter().max().unwrap());
            assert!(least >= due * 3 / 4 && most <= due * 5 / 4, "{failures}: {least} to {most} ms");
            assert!(most - least > due / 4, "{failures}: all alike");
        }
    }
}
