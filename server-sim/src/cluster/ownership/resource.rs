//! What one node at a time serves.

use std::fmt;

/// Prefix of all owner records.
pub(super) const OWNERS: &str = "owner/";

/// What kind of thing is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A stream, which every node serves: only placed, never claimed.
    Stream,
    /// A shard, likewise.
    Shard,
    /// A subscription.
    Subscription,
    /// A polled reader.
    ShardReader,
    /// A query.
    Query,
    /// A view.
    View,
    /// A connector.
    Connector,
}

impl Kind {
    /// All there are.
    pub const ALL: [Kind; 7] = [
        Kind::Stream,
        Kind::Shard,
        Kind::Subscription,
        Kind::ShardReader,
        Kind::Query,
        Kind::View,
        Kind::Connector,
    ];

    /// Its name in keys; stays as it is for ever.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Stream => "stream",
            Kind::Shard => "shard",
            Kind::Subscription => "subscription",
            Kind::ShardReader => "shard-reader",
            Kind::Query => "query",
            Kind::View => "view",
            Kind::Connector => "connector",
        }
    }
}

/// One thing that is served.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// Its name or id.
    pub id: String,
}

impl Resource {
    /// The thing of this kind and name, whether it exists or not.
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        Resource { kind, id: id.into() }
    }

    /// Key of its owner record.
    pub fn key(&self) -> String {
        format!("{OWNERS}{}/{}", self.kind.name(), self.id)
    }

    /// The thing a key is about.
    pub(super) fn parse(key: &str) -> Option<Self> {
        let (kind, id) = key.strip_prefix(OWNERS)?.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
        Some(Resource::new(kind, id))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind.name(), self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_what_they_are_about() {
        for kind in Kind::ALL {
            let resource = Resource::new(kind, "a/b");
            assert_eq!(Resource::parse(&resource.key()), Some(resource));
        }
        assert_eq!(Resource::parse("owner/house/a"), None);
        assert_eq!(Resource::parse("lease/1"), None);
    }
}
