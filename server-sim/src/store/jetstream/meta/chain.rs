//! Which writes of a key came before its last one.
//!
//! Every compare-and-set carries the few before it, as its writer knew them. Whoever lost the answer to a write that
//! others have overwritten since finds out from the last one whether it was stored, however much was missed in between.

use std::fmt;
use std::str::FromStr;

/// Writes that are carried along.
const LINKS: usize = 4;

/// The writes of a key between two of its changes, oldest first, without a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// The change before the first one.
    base: u64,
    /// Each change, and which write it was; 0 if nobody said so.
    links: Vec<(u64, u128)>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was stored, as this change.
    Stored(u64),
    /// It was not, and cannot be any more.
    Refused,
    /// Too much has happened since.
    Unknown,
}

impl Chain {
    /// What begins with the change after `base`.
    pub(super) fn from(base: u64) -> Chain {
        Chain { base, links: Vec::new() }
    }

    /// The same and one change more.
    pub(super) fn then(&self, version: u64, id: Option<u128>) -> Chain {
        let mut next = self.clone();
        next.links.push((version, id.unwrap_or(0)));
        if next.links.len() > LINKS {
            next.base = next.links.remove(0).0;
        }
        next
    }

    /// What became of the write `id`, which expected the change `expected` to be the last one.
    pub(super) fn fate(&self, expected: u64, id: u128) -> Fate {
        if let Some((version, _)) = self.links.iter().find(|(_, link)| *link == id) {
            return Fate::Stored(*version);
        }
        let known = self.base == expected && !self.links.is_empty();
        let overtaken = |(version, _): &(u64, u128)| *version == expected;
        let before_last = self.links.iter().rev().skip(1).any(overtaken);
        if known || before_last { Fate::Refused } else { Fate::Unknown }
    }
}

/// `base` and then ` version:write` of each.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        self.links.iter().try_for_each(|(version, id)| write!(f, " {version}:{id:x}"))
    }
}

impl FromStr for Chain {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(' ');
        let base = parts.next().and_then(|base| base.parse().ok()).ok_or(())?;
        let link = |text: &str| {
            let (version, id) = text.split_once(':')?;
            Some((version.parse().ok()?, u128::from_str_radix(id, 16).ok()?))
        };
        let links: Option<Vec<_>> = parts.map(link).collect();
        let links = links.filter(|links| links.len() <= LINKS).ok_or(())?;
        Ok(Chain { base, links })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_write_is_found_as_long_as_the_chain_reaches_back_to_what_it_expected() {
        let mut chain = Chain::from(5);
        assert_eq!(chain.fate(5, 77), Fate::Unknown, "nothing has come after it");
        for (version, id) in [(6, 66), (9, 99), (10, 100), (12, 120)] {
            chain = chain.then(version, Some(id));
        }
        assert_eq!(chain.fate(6, 99), Fate::Stored(9));
        assert_eq!(chain.fate(5, 77), Fate::Refused);
        assert_eq!(chain.fate(9, 77), Fate::Refused);
        assert_eq!(chain.fate(12, 77), Fate::Unknown, "it may be the next one");
        assert_eq!(chain.fate(4, 77), Fate::Unknown);
        chain = chain.then(13, None);
        assert_eq!(chain.fate(5, 66), Fate::Unknown, "too long ago");
        assert_eq!((chain.fate(6, 77), chain.fate(12, 77)), (Fate::Refused, Fate::Refused));
    }

    #[test]
    fn nonsense_is_no_chain() {
        for text in ["", "x", "1 2", "1 2:g", "1 a:1", "1  2:3", "1 2:1 3:1 4:1 5:1 6:1"] {
            assert!(text.parse::<Chain>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_chain_is_written_and_read(base: u64, ids in prop::collection::vec(1u128.., 0..9)) {
            let mut chain = Chain::from(base);
            for (at, id) in ids.iter().enumerate() {
                chain = chain.then(at as u64, Some(*id));
            }
            prop_assert_eq!(chain.to_string().parse(), Ok(chain));
        }
    }
}
