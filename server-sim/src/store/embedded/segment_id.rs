//! What segment files are called, and what their names say.

/// What the name of a segment says. Everything that decides what a file is stands in the name, so that no
/// damaged byte inside can make it something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentId {
    /// Place in the log.
    pub number: u32,
    /// A compacted segment stands for the segments from this number to its own; else the number itself.
    pub first: u32,
    /// 0 for a segment as it was appended; a compacted one has more than each of those it stands for.
    pub generation: u32,
    /// Part of the checksum of every header in it.
    pub salt: u64,
}

impl SegmentId {
    /// A new segment for appends.
    pub fn appended(number: u32) -> SegmentId {
        SegmentId { number, first: number, generation: 0, salt: rand::random() }
    }

    /// `NUMBER-SALT.log`, or `NUMBER-SALT-FIRST-GENERATION.log` if compacted.
    pub fn name(&self) -> String {
        let SegmentId { number, first, generation, salt } = self;
        if *generation == 0 {
            format!("{number:010}-{salt:016x}.log")
        } else {
            format!("{number:010}-{salt:016x}-{first:010}-{generation}.log")
        }
    }

    /// Name of the index beside it.
    pub fn index_name(&self) -> String {
        let mut name = self.name();
        name.truncate(name.len() - ".log".len());
        name + ".idx"
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<SegmentId> {
        let mut parts = name.strip_suffix(".log")?.split('-');
        let number = parts.next()?.parse().ok()?;
        let salt = u64::from_str_radix(parts.next()?, 16).ok()?;
        let (first, generation) = match (parts.next(), parts.next()) {
            (None, _) => (number, 0),
            (Some(first), generation) => (first.parse().ok()?, generation?.parse().ok()?),
        };
        let id = SegmentId { number, first, generation, salt };
        (id.name() == name && first <= number).then_some(id)
    }

    /// Reads the name of an index.
    pub fn parse_index(name: &str) -> Option<SegmentId> {
        SegmentId::parse(&format!("{}.log", name.strip_suffix(".idx")?))
    }

    /// True for the outcome of a compaction. It was durable before it got its name and is never continued.
    pub fn is_compacted(&self) -> bool {
        self.generation > 0
    }

    /// True if the compaction that made this one has made `other` superfluous.
    pub fn replaces(&self, other: &SegmentId) -> bool {
        self.generation > other.generation && self.first <= other.first && other.number <= self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_sort_by_number() {
        let appended = SegmentId { number: 7, first: 7, generation: 0, salt: u64::MAX };
        let compacted = SegmentId { number: 9, first: 7, generation: 3, salt: 1 };
        for id in [appended, compacted] {
            assert_eq!(SegmentId::parse(&id.name()), Some(id));
            assert_eq!(SegmentId::parse_index(&id.index_name()), Some(id));
        }
        assert!(SegmentId { number: 10, ..appended }.name() > SegmentId { number: 9, ..appended }.name());
        assert!(SegmentId { number: 10, salt: 0, ..appended }.name() > compacted.name());
        for foreign in [
            "7.log",
            "meta.redb",
            "0000000007-00000000000000zz.log",
            "7-1.log",
            "0000000007-0000000000000001-0000000009-1.log",
            "0000000007-0000000000000001-0000000007.log",
            "0000000007-0000000000000001-0000000007-0.log",
            "0000000007-0000000000000001-0000000007-1-1.log",
        ] {
            assert_eq!(SegmentId::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_compacted_segment_replaces_what_lies_inside_it_and_is_older() {
        let id = |first, number, generation| SegmentId { number, first, generation, salt: 0 };
        assert!(id(7, 9, 1).replaces(&id(8, 8, 0)) && id(7, 9, 1).replaces(&id(9, 9, 0)));
        assert!(id(7, 9, 2).replaces(&id(7, 9, 1)));
        assert!(!id(7, 9, 1).replaces(&id(10, 10, 0)) && !id(7, 9, 1).replaces(&id(7, 9, 1)));
        assert!(!id(7, 9, 1).replaces(&id(6, 8, 0)));
    }
}
